"""From a results folder into the repository: ``python -m experiments.publish FOLDER [README.md]``.

Writes docs/results/NAME.md (the table, how it was made, the tuning), its figures and a compact results file beside it; and where a file is named, puts
the table between its marks ``<!-- table NAME -->`` and ``<!-- end -->``. No figure in the documentation is typed by hand.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from experiments import figures, parts, report, settings, tables, tried, tune
from experiments.results import write_json

DOCS = Path(__file__).parent.parent / "docs" / "results"
JUDGED = {  # by what trials are judged: in words, at the head of a column, and with how many digits
    tune.BY: ("the exact NLL of the validation images under the fitted prior", "best validation NLL", ".2f"),
    "val_l1": ("the mean absolute error on validation pictures", "least error", ".4f"),
    "val_nats_per_code": ("the NLL of the validation pictures' codes, in nats a code", "best validation NLL", ".3f"),
}
MARKS = "<!-- table {name} -->\n{table}\n<!-- end -->"


def compact(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without their configurations, which the repository holds already."""
    return [{key: value for key, value in record.items() if key != "config"} for record in records]


def page(results: tables.Results, pictures: dict[str, str]) -> str:
    """docs/results/NAME.md; ``pictures`` are file names, by what they show."""
    records, meta = results
    name, spec = stem(meta), meta["table"]
    made = f"{meta['hardware']}; {len(meta['seeds'])} seeds; {meta['minutes']:.1f} minutes; latentcomp {meta['version']}."
    paragraphs = [f"# {spec['title']}", tables.untitled(records, spec).strip(), f"Made by `{meta['command']}` on {made}"]
    if "reading" in spec:
        paragraphs.append(f"*How to read it.* {spec['reading'].strip()}")
    paragraphs += [f"![{shows}]({name}/{file})" for shows, file in pictures.items()]
    return "\n\n".join([*paragraphs, *_tuning(meta["name"], spec)]) + "\n"


def _tuning(name: str, spec: dict[str, Any]) -> list[str]:
    if "tuning" not in spec:
        return []
    trials, by = tried.stored(tune.trials_file(name)), tune.by(spec)
    if not trials:
        return ["## Tuning", f"None was made yet; `python -m experiments.tune {name}` tries the same settings for every row."]
    rows = []
    for row in tune.rows(spec):
        winner = tune.best(spec, trials, row)
        values = [t[by] for t in trials if t["row"] == row]
        rows.append([spec["labels"][row], *(s.split("=")[1] for s in winner["setting"]), winner[by], max(values), len(values)])
    words, heading, digits = JUDGED[by]
    names = [key.split(".")[-1] for key in spec["tuning"]["grid"]]
    grid = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in spec["tuning"]["grid"].items())
    return [
        "## Tuning",
        f"Every row was tried with every setting of the same grid ({grid}) on seed {spec['tuning']['seed']}, which the table does not report, and judged by "
        f"{words}. All trials: `experiments/conf/tuning/{name}.json`.",
        tabulate(rows, ["row", *names, heading, "worst", "trials"], "github", floatfmt=("", *[""] * len(names), digits, digits, "d")),
    ]


def publish(folder: Path, readme: Path | None = None) -> None:
    """Writes the page, the figures, the results, and the marked block of ``readme``.

    Raises:
        BrokenFolder: a file of the folder is missing or damaged.
    """
    results = _in_words_of_today(_without_folders(tables.read(folder)))
    name, spec = stem(results.meta), results.meta["table"]
    (DOCS / name).mkdir(parents=True, exist_ok=True)
    pictures = {}
    for shows, data in _pictures(folder, results).items():
        form = "png" if data.startswith(b"\x89PNG") else "svg"
        pictures[shows] = f"{shows.split(',')[0].lower().replace(' ', '_')}.{form}"
        (DOCS / name / pictures[shows]).write_bytes(data)
    meta = {key: value for key, value in results.meta.items() if key != "table"}
    write_json(DOCS / f"{name}.json", {"meta": meta, "records": compact(results.records)})
    (DOCS / f"{name}.md").write_text(page(results, pictures))
    if readme is not None:
        readme.write_text(marked(readme.read_text(), name, tables.markdown(results.records, spec)))


def stem(meta: Mapping[str, Any]) -> str:
    """What the files of a published run are called: by its table, and its budget where that is not the default."""
    return meta["name"] if meta["budget"] == "cpu" else f"{meta['name']}-{meta['budget']}"


def _without_folders(results: tables.Results) -> tables.Results:
    """The command without the folders and files where this machine keeps its data and weights, which mean nothing on another."""
    command = re.sub(r"(\b(?:data\.root|weights)=)\S+", r"\1FOLDER", results.meta["command"])
    return results._replace(meta=results.meta | {"command": re.sub(r"(\bdistance=)\S+", r"\1FILE", command)})


def _in_words_of_today(results: tables.Results) -> tables.Results:
    """A table's words may be written, its columns chosen, and its rows put beside others, after the run."""
    name, budget = results.meta["name"], results.meta["budget"]
    return results._replace(meta=results.meta | {"table": settings.worded_as_usual(name, budget)}) if name in settings.tables() else results


def _pictures(folder: Path, results: tables.Results) -> dict[str, bytes]:
    """The figures that a page shows, by what they show."""
    spec, runs = results.meta["table"], report.runs(folder, results)
    found: dict[str, bytes | None] = {"Summary, means and 95 % intervals over seeds": figures.summary(results.records, spec)}
    if "pictures" in spec:
        found["Training curves"] = figures.curves(runs, spec)
        drawn = parts.figures(spec)
        own = {title: data for title, _, data in drawn(runs, spec)} if drawn else {}
        return {shows: data for shows, data in (found | own).items() if data}
    found |= {
        "Training curves, on validation images": figures.curves(runs, spec),
        "Reconstructions": figures.reconstructions(runs, spec),
        "Posteriors, exact and learned": figures.posteriors(runs, spec),
    }
    return {shows: data for shows, data in found.items() if data is not None}


def marked(text: str, name: str, table: str) -> str:
    """The text with the table between its marks."""
    pattern = re.compile(MARKS.format(name=re.escape(name), table=".*?"), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"error: there is no block {MARKS.format(name=name, table='...')!r} to put the table into")
    return pattern.sub(lambda _: MARKS.format(name=name, table=f"\n{table.strip()}\n"), text)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(f"{__doc__}\nTables: {', '.join(settings.tables())}")
    publish(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else None)
