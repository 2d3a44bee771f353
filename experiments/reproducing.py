"""docs/reproducing.md: ``python -m experiments.reproducing``.

Every table that has been run and published, with the numbers that the paper or its code prints beside ours, the machine, the seeds and the command, and
what differs from the published experiment and why; then the speeds (:mod:`experiments.benchmarked`). Tables without a published run are named as such. The page
is put together from docs/results and from the tables' configurations: no figure in it is typed by hand.
"""

import json
from pathlib import Path
from typing import Any

from experiments import benchmarked, settings, tables
from experiments.publish import DOCS

PAGE = DOCS.parent / "reproducing.md"
INTRODUCTION = (
    "Written by `python -m experiments.reproducing` from the runs in [results](results); a number stands here only if a run gave it. "
    "Columns named *expected* hold what the paper or its code prints."
)


def page() -> str:
    """The whole page."""
    stored = {path.stem: json.loads(path.read_text()) for path in sorted(DOCS.glob("*.json"))}
    parts = ["# Reproducing", INTRODUCTION]
    for name, results in stored.items():
        parts += section(name, results)
    missing = [name for name in settings.tables() if name not in stored]
    if missing:
        commands = "\n".join(f"- `python -m experiments.reproduce {name}`: {settings.worded_as_usual(name)['title']}" for name in missing)
        parts += ["## Not run yet", f"These tables have no published run on this page's machines:\n\n{commands}"]
    return "\n\n".join([*parts, *benchmarked.sections()]) + "\n"


def section(name: str, results: dict[str, Any]) -> list[str]:
    """One table: numbers, how they were made, how to read them, what differs."""
    spec, meta = settings.worded_as_usual(name), results["meta"]
    made = f"{meta['hardware']}; {len(meta['seeds'])} seeds; {meta['minutes']:.1f} minutes; latentcomp {meta['version']}."
    reading = [f"*How to read it.* {spec['reading'].strip()}"] if "reading" in spec else []
    differs = [f"*What differs from the published experiment, and why.* {spec['differs'].strip()}"] if "differs" in spec else []
    words = [tables.untitled(results["records"], spec).strip(), f"Made by `{meta['command']}` on {made} Figures: [{name}](results/{name}.md)."]
    return [f"## {spec['title']}", *words, *reading, *differs]


def write(path: Path = PAGE) -> None:
    """Writes the page."""
    path.write_text(page())


if __name__ == "__main__":
    write()
