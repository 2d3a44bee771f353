"""The report of a results folder: one HTML file with the table and every picture inside. ``python -m experiments.report FOLDER``

Rewrites table.md, table.tex and report.html from what lies in the folder; runs nothing.
"""

import base64
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch

from experiments import figures, parts, tables
from experiments.cells import Records, against, label, table
from experiments.figures import Run, Runs
from experiments.results import flat
from experiments.tables import BrokenFolder, Results

SHOWN = ("images", "reconstructions", "samples", "usage")  # what a run keeps to be looked at, where its table does not say something else


class Picture(NamedTuple):
    """A figure of the report: its heading, what it shows, and the file's bytes (None: there is nothing to show)."""

    title: str
    caption: str
    data: bytes | None

    @property
    def url(self) -> str:
        """The file itself, as an address."""
        assert self.data is not None
        return f"data:image/{'png' if self._png else 'svg+xml'};base64,{base64.b64encode(self.data).decode()}"

    @property
    def width(self) -> int:
        """How wide the page shows it, in CSS pixels: a PNG has two dots for each, for sharp screens; all SVGs are nine inches wide."""
        assert self.data is not None
        return int.from_bytes(self.data[16:20], "big") // 2 if self._png else 9 * 96

    @property
    def _png(self) -> bool:
        return self.data is not None and self.data.startswith(b"\x89PNG")


def write(folder: Path) -> Path:
    """Writes table.md, table.tex and report.html of a results folder.

    Returns:
        The report.

    Raises:
        BrokenFolder: a file is missing or damaged; names it, and the command that makes it.
    """
    results = tables.read(folder)
    page = html(results, runs(folder, results))
    tables.write(folder)
    (folder / "report.html").write_text(page)
    return folder / "report.html"


def runs(folder: Path, results: Results) -> Runs:
    """Curves and pictures of every run in the records, by row and seed.

    Raises:
        BrokenFolder: a file is missing or damaged; names it, and the command that makes it.
    """
    found: dict[str, dict[int, Run]] = {row: {} for row in results.meta["table"]["rows"]}
    for row, seed in sorted({(record["row"], record["seed"]) for record in results.records if record["row"] in found}):
        found[row][seed] = _run(folder / "runs", row, seed, results.meta)
    return {row: by_seed for row, by_seed in found.items() if by_seed}


def _run(folder: Path, row: str, seed: int, meta: Mapping[str, Any]) -> Run:
    path = folder / f"{row}-{seed}.pt"
    remedy = f"Delete {path.with_suffix('.json')}, then this command makes both anew: {meta['command']}"
    try:
        run = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BrokenFolder(f"error: {path} is missing. {remedy}") from None
    except Exception as error:  # torch raises many kinds for one reason
        raise BrokenFolder(f"error: {path} is damaged ({type(error).__name__}). {remedy}") from None
    own = meta["table"].get("shows", SHOWN)
    if missing := [key for key in ("curve", "best_step", *own) if key not in run]:
        raise BrokenFolder(f"error: {path} lacks {', '.join(missing)}: it is damaged, or of another version. {remedy}")
    return run


def html(results: Results, runs: Runs) -> str:
    """The report as one page that needs no other file."""
    records, meta = results
    spec = meta["table"]
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shared, own = configs(records, spec["rows"])
    return template.get_template("report.html.jinja").render(
        meta=meta,
        table=table(records, spec, meta),
        colours=[*(figures.colour(spec, row) for row in spec["rows"]), *["transparent"] * len(spec.get("cited", []))],
        pictures=[picture for picture in _pictures(records, meta, runs) if picture.data],
        shared=shared,
        own={label(spec, row): settings for row, settings in own.items()},
        counts={name: len({record[name] for record in records}) for name in ("row", "seed", "metric")}
        | {"record": len(records), "run": sum(map(len, runs.values()))},
        infinite=sum(record["value"] is None for record in records),
    )


def configs(records: Records, rows: Iterable[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings that all rows share, and each row's own, by dotted name; those of a row's first seed."""
    first = {record["row"]: flat(record.get("config") or {}) for record in sorted(records, key=lambda r: r["seed"], reverse=True)}
    settings = {row: first[row] for row in rows if row in first}
    shared = {key: value for key, value in next(iter(settings.values())).items() if all(key in other and other[key] == value for other in settings.values())}
    return shared, {row: {key: value for key, value in mine.items() if key not in shared} for row, mine in settings.items()}


def _pictures(records: Records, meta: Mapping[str, Any], runs: Runs) -> list[Picture]:
    spec = meta["table"]
    first = min(record["seed"] for record in records)
    other = against(spec)
    reference = "" if other is None else f" Right: the difference to {other}, seed by seed, with its paired interval."
    standing = [
        Picture(
            "Who is best",
            f"{spec['headings'][spec['headline']]['label']}: means, 95 % t-intervals, seeds as dots; filled: the best, and what is not separated from it."
            + reference,
            figures.summary(records, spec),
        ),
        Picture(
            "Training",
            f"{spec.get('watched', 'Validation NLL (nats)')}, under the prior in training: each seed, their mean (thick) and the state kept (dots); grey: the "
            "other rows' means. "
            "The frame holds every row's best look; early, worse values leave it.",
            figures.curves(runs, spec),
        ),
    ]
    if "pictures" in spec:
        own = parts.figures(spec)
        return [*standing, *(Picture(*shown) for shown in (own(runs, spec) if own else []))]
    return [
        *standing,
        Picture(
            "Reconstructions", f"Test images, and the mean image at the posterior's most probable code (seed {first}).", figures.reconstructions(runs, spec)
        ),
        Picture("Samples", f"Mean images of codes drawn from the prior fitted to each row's codes (seed {first}).", figures.samples(runs, spec)),
        Picture(
            "Code usage",
            f"How often the posterior takes each code on the test images; shades from dark to light are the sites, the dashed line is even use (seed {first}).",
            figures.usage(runs, spec),
        ),
        Picture(
            "Exact and learned posteriors",
            "Probability of the ten codes that are most probable under the exact posterior, and of all others together, on a square-root scale. Every row has "
            "a model of its own, here under the prior it was trained with, so codes and exact posteriors differ between rows; a learner is to match the grey "
            f"bars beside its own (seed {first}).",
            figures.posteriors(runs, spec),
        ),
    ]


def main(arguments: list[str]) -> None:
    """The command line."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit(__doc__)
    print(f"written: {write(Path(arguments[0]))}")


if __name__ == "__main__":
    main(sys.argv[1:])
