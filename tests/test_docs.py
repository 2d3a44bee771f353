"""The documents are true: every Python block runs, every command and every relative link leads somewhere, and GitHub can set the maths.

The blocks of one document share a namespace and run in order, in a temporary folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()] + sorted((ROOT / "docs").rglob("*.md"))
LANGUAGES = {"python", "bash", "yaml", "toml", "json", "text", "markdown", "math", "mermaid"}
documents = pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])


class Block(NamedTuple):
    """A fenced block: the language behind the fence, the number of its first line, and its lines."""

    language: str
    line: int
    source: str


def blocks(document: Path) -> Iterator[Block]:
    """The fenced blocks of a document; a fence closes with at least as many backticks as opened it."""
    fence, language, first, lines = "", "", 0, []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        mark = re.match(r"\s*(`{3,})(.*)", line)
        if fence and mark and len(mark[1]) >= len(fence) and not mark[2].strip():
            yield Block(language, first, "\n".join(lines) + "\n")
            fence = ""
        elif fence:
            lines.append(line)
        elif mark:
            fence, language, first, lines = mark[1], mark[2].strip(), number + 1, []
    assert not fence, f"{document.name}: the block at line {first} is not closed"


def prose(document: Path) -> str:
    """A document without fenced blocks and inline code."""
    without = re.sub(r"^\s*(`{3,}).*?^\s*\1`*\s*$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", without)


def anchors(document: Path) -> set[str]:
    """The names that GitHub gives the headings."""
    headings = re.findall(r"^#+ +(.+)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
@pytest.mark.usefixtures("unchecked")
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As their readers run them: without the tests' checks of shapes, which take half of the time of a training."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__document__"}
    with torch.random.fork_rng():
        for block in blocks(document):
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + block.source, document, "exec"), namespace)  # so that a traceback names the document's own line


@documents
def test_fences_name_a_known_language(document: Path) -> None:
    for block in blocks(document):
        assert block.language in LANGUAGES, f"line {block.line}: {block.language!r} is not one of {sorted(LANGUAGES)}; no block is exempt from being run"


@documents
def test_commands_exist(document: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for block in blocks(document):
        if block.language == "bash":
            for module in re.findall(r"python3? -m (experiments[\w.]*)", block.source):
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"line {block.line}: there is no module {module}"
            for command in re.findall(r"(?:^|&&|;)\s*make\b(.*?)(?=#|&&|;|$)", block.source, flags=re.MULTILINE):
                missing = {word for word in command.split() if "=" not in word} - targets
                assert not missing, f"line {block.line}: the Makefile has no target {', '.join(missing)}"


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"", prose(document)):
        address, _, anchor = "".join(link).partition("#")
        if re.match(r"[a-z]+:", address):
            continue
        target = document if not address else document.parent / address
        assert target.exists(), f"{address} does not exist"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{target.name} has no heading #{anchor}; it has {sorted(anchors(target))}"


@documents
def test_inline_maths_survives_markdown(document: Path) -> None:
    for paragraph in re.split(r"\n\s*\n", prose(document)):
        assert paragraph.count("$") % 2 == 0, f"an odd number of dollar signs in: {paragraph}"
        for formula in re.findall(r"\$([^$]*)\$", paragraph):
            assert not re.search(r"\\[^a-zA-Z\s]", formula), f"Markdown eats the backslash before a sign: ${formula}$ (write \\lbrace, \\Vert, or a math block)"
