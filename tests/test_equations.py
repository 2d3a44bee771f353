"""docs/equations.md names functions and tests that exist, and every equation of objectives that a paper's loss is made of."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from latentcomp import objectives

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "equations.md"
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.read_text().splitlines() if line.startswith("| ") and " | `" in line]


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_function_and_every_test_of_a_row_exists(row):
    _, equation, functions, tests = row
    assert equation
    assert named(functions)
    assert named(tests)
    for name in named(functions):
        assert found(name), f"there is no latentcomp.{name}"
    for name in named(tests):
        path, _, test = name.partition("::")
        defined = {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)}
        assert test.startswith("test_")
        assert test in defined, f"there is no {name}"


def found(name: str) -> bool:
    """Whether a dotted name below ``latentcomp`` is a class, a function or a method."""
    words = name.split(".")
    for cut in range(len(words), 0, -1):
        try:
            thing = importlib.import_module(".".join(["latentcomp", *words[:cut]]))
        except ModuleNotFoundError:
            continue
        for word in words[cut:]:
            thing = getattr(thing, word, None)
        return callable(thing)
    return False


def test_what_is_not_there_is_not_found():
    assert found("objectives.hinge_loss")
    assert not found("objectives.wasserstein_loss")
    assert not found("learners.vqgan.VQGAN.loses")
    assert not found("learner.vqgan.VQGAN")


def test_each_system_s_equations_are_all_there():
    assert {row[0] for row in ROWS} >= {str(i) for i in range(1, 11)}
    assert {row[0].partition(",")[0] for row in ROWS} >= {"Algorithm 1", "Algorithm 2"}
    sides = ("hinge_loss", "logistic_loss", "saturating_loss", "adversarial_loss", "lecam_loss", "min_max_value")
    games = {name for name in vars(objectives) if name.endswith(sides)}
    assert games <= {name.removeprefix("objectives.") for row in ROWS for name in named(row[2])}
