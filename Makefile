# The two commands of the README, and what developers run. Each makes .venv in this checkout at its first use, installs into it, and touches nothing else.
# Another Python: make PYTHON=python3.12 test

PYTHON ?= $(shell for p in python3.12 python3.11 python3 python; do \
    $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: digits test test-slow lint types clean

digits: $(VENV)/ready
	$(BIN)/python -m experiments.reproduce digits

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(VENV)/ready
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "latentcomp needs Python 3.11 or 3.12, and none was found: install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { echo "latentcomp needs Python 3.11 or 3.12; $(PYTHON) is `$(PYTHON) --version`"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make virtual environments: install its venv module (on Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing torch and the rest into $(VENV): about 6 GB, a few minutes"
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) outputs .pytest_cache .mypy_cache .ruff_cache *.egg-info
