"""Tables as Markdown and as LaTeX, and reading the folder whose numbers they show.

The LaTeX compiles as pasted into a paper that loads booktabs, under pdfLaTeX too.
"""

import json
import re
import textwrap
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import LATEX_ESCAPE_RULES, DataRow, Line, TableFormat, tabulate

from experiments.cells import Cell, Heading, Records, Spec, table

_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "σ": "sigma", "φ": "phi", "Δ": "Delta"}
_SIGNS = {"±": "pm", "∞": "infty", "×": "times", "‖": "|", "↓": "downarrow", "↑": "uparrow", "→": "to", "≤": "leq", "≥": "geq"}
_TEXT = {"–": "--", "—": "---", "’": "'", "…": r"\dots{}", "−": "$-$", "\n": " "}
_ESCAPES = str.maketrans(LATEX_ESCAPE_RULES | {sign: rf"$\{command}$" for sign, command in (_SIGNS | _GREEK).items()} | _TEXT)
_BOOKTABS = TableFormat(
    lineabove=Line(r"\toprule", "", "", ""),
    linebelowheader=Line(r"\midrule", "", "", ""),
    linebetweenrows=None,
    linebelow=Line(r"\bottomrule", "", "", ""),
    headerrow=DataRow("", " & ", r" \\"),
    datarow=DataRow("", " & ", r" \\"),
    padding=0,
    with_header_hide=None,
)

NAME = re.compile(r"\w[\w.+-]*")


class BrokenFolder(SystemExit):
    """A results folder that cannot be read; the message names what is missing and the command that makes it."""


class Results(NamedTuple):
    """The numbers of a results folder: results.json and meta.json."""

    records: list[dict[str, Any]]
    meta: dict[str, Any]


def read(folder: Path) -> Results:
    """The numbers of a results folder.

    Raises:
        BrokenFolder: a file is missing or damaged; names it, and the command that makes it.
    """
    if not folder.is_dir():
        raise BrokenFolder(f"error: there is no folder {folder}. {_remedy(folder)}")
    meta = _json(folder, "meta.json", _remedy(folder), dict)
    remedy = _remedy(folder, meta.get("command"))
    missing = [key for key in ("version", "budget", "command", "table") if key not in meta]
    missing += [f"table.{key}" for key in ("title", "rows", "columns", "headings", "headline", "interval") if key not in meta.get("table", {})]
    if missing:
        raise BrokenFolder(f"error: {folder / 'meta.json'} lacks {', '.join(missing)}: it is damaged, or of another version. {remedy}")
    records = _json(folder, "results.json", remedy, list)
    if not records or not all(isinstance(record, dict) and {"row", "seed", "metric", "value"} <= record.keys() for record in records):
        raise BrokenFolder(f"error: {folder / 'results.json'} holds no records with row, seed, metric and value. {remedy}")
    _check_names(folder, meta, records, remedy)
    return Results(records, meta)


def _check_names(folder: Path, meta: Mapping[str, Any], records: Records, remedy: str) -> None:
    """Names of tables, budgets, rows and seeds become names of files: they must not lead out of their folder."""
    names = [meta.get("name", "table"), meta["budget"], *meta["table"]["rows"], *(record["row"] for record in records)]
    strange = [name for name in names if not (isinstance(name, str) and NAME.fullmatch(name))]
    strange += [record["seed"] for record in records if type(record["seed"]) is not int]
    if strange:
        raise BrokenFolder(f"error: {folder} says {strange[0]!r} where the name of a table, budget or row, or the number of a seed, was written. {remedy}")


def write(folder: Path) -> None:
    """Writes table.md and table.tex of a results folder.

    Raises:
        BrokenFolder: a file is missing or damaged; names it, and the command that makes it.
    """
    records, meta = read(folder)
    (folder / "table.md").write_text(markdown(records, meta["table"], meta))
    (folder / "table.tex").write_text(latex(records, meta["table"], meta))


def markdown(records: Records, spec: Spec, meta: Mapping[str, Any] | None = None) -> str:
    """The table as Markdown; ``meta`` adds budget and version to the caption."""
    return f"**{spec['title']}**\n\n{untitled(records, spec, meta)}"


def untitled(records: Records, spec: Spec, meta: Mapping[str, Any] | None = None) -> str:
    """The same without its title, for a page whose heading says it."""
    words = table(records, spec, meta)
    headings = ["", *(str(heading).replace("|", r"\|") for heading in words.headings)]
    body = [[label.replace("|", r"\|"), *map(_markdown_cell, row)] for label, row in zip(words.labels, words.cells, strict=True)]
    notes = [f"{_superscript(number)} {note}" for number, note in enumerate(words.footnotes, 1)]
    paragraphs = [_set(body, headings, "pipe"), *notes, " ".join(words.caption)]
    return "\n\n".join(paragraphs) + "\n"


def latex(records: Records, spec: Spec, meta: Mapping[str, Any] | None = None) -> str:
    """The table as a LaTeX float that needs booktabs; ``meta`` adds budget and version to the caption, and its label."""
    words = table(records, spec, meta)
    body = [[escaped(label), *map(_latex_cell, row)] for label, row in zip(words.labels, words.cells, strict=True)]
    notes = [rf"\\[2pt] \parbox{{\linewidth}}{{$^{{{number}}}$ {escaped(note)}}}" for number, note in enumerate(words.footnotes, 1)]
    tabular = [
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(words.headings)}@{{}}}}",
        _set(body, ["", *map(_latex_heading, words.headings)], _BOOKTABS),
        r"\end{tabular}",
    ]
    lines = [
        r"% needs \usepackage{booktabs}; with graphicx too, a wide table shrinks to the line (in two columns: use table*)",
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(words.title)}. {escaped(' '.join(words.caption))}}}",
        *([rf"\label{{tab:{meta['name']}}}"] if meta and "name" in meta else []),
        *(tabular if len(words.headings) < 7 else _shrunk(tabular)),
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _shrunk(lines: list[str]) -> list[str]:
    """As wide as the line where graphicx is loaded, as it is where it is not."""
    fitted = r"\csname\ifdefined\resizebox resizebox\else unfitted\fi\endcsname{\linewidth}{!}{%"
    return [r"\providecommand{\unfitted}[3]{#3}" + fitted, *lines[:-1], lines[-1] + "}"]


def escaped(text: str) -> str:
    """Text for LaTeX: special characters escaped, signs as commands; what pdfLaTeX cannot set is spelt out by its name."""
    return "".join(sign if ord(sign) < 0x180 else f"[{unicodedata.name(sign, 'sign').lower()}]" for sign in text.translate(_ESCAPES))


def _set(body: list[list[str]], headings: list[str], form: str | TableFormat) -> str:
    return tabulate(body, headings, form, colalign=("left", *["right"] * (len(headings) - 1)), disable_numparse=True)


def _markdown_cell(cell: Cell) -> str:
    value = f"**{cell.value}**" if cell.best else cell.value
    return value + (f" ± {cell.spread}" if cell.spread else "") + (_superscript(cell.note) if cell.note else "")


def _latex_cell(cell: Cell) -> str:
    note = f"^{{{cell.note}}}" if cell.note else ""
    if cell.value == "–":
        return f"--${note}$" if note else "--"
    value, spread = (text.replace("∞", r"\infty").replace("−", "-").replace(",", "{,}") for text in (cell.value, cell.spread))
    value = rf"\mathbf{{{value}}}" if cell.best else value
    return f"${value}" + (rf"_{{\pm {spread}}}" if spread else "") + f"{note}$"


def _latex_heading(heading: Heading) -> str:
    unit = " ".join(filter(None, (heading.unit and f"({heading.unit})", heading.arrow)))
    lines = [escaped(line) for line in (*textwrap.wrap(heading.label, 14), unit) if line]
    return r"\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _json(folder: Path, name: str, remedy: str, kind: type) -> Any:
    try:
        data = json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise BrokenFolder(f"error: {folder / name} is missing. {remedy}") from None
    except ValueError as error:
        raise BrokenFolder(f"error: {folder / name} is damaged ({error}). {remedy}") from None
    if not isinstance(data, kind):
        raise BrokenFolder(f"error: {folder / name} is damaged: it holds no {kind.__name__}. {remedy}")
    return data


def _remedy(folder: Path, command: str | None = None) -> str:
    """The command that makes a folder: as its meta.json says, else as its name says."""
    name, _, budget = folder.resolve().name.partition("-")
    return f"This command makes it: {command or f'python -m experiments.reproduce {name}' + (f' budget={budget}' if budget else '')}"
