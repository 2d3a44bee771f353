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
    parts += _not_run(set(stored))
    return "\n\n".join([*parts, *benchmarked.sections()]) + "\n"


def _not_run(stored: set[str]) -> list[str]:
    """The tables without a published run, and those whose full budget has none."""
    missing = [name for name in settings.tables() if name not in stored]
    short = [name for name in settings.tables() if name in stored and f"{name}-full" not in stored]
    commands = "\n".join(f"- `python -m experiments.reproduce {name}`: {settings.worded_as_usual(name)['title']}" for name in missing)
    full = "\n".join(f"- `python -m experiments.reproduce {name} budget=full`" for name in short)
    return [
        "## Not run yet",
        *([f"These tables have no published run on this page's machines:\n\n{commands}"] if missing else []),
        *([f"These have one in the default budget only; the full one has the published size, and most are for a GPU or for days:\n\n{full}"] if short else []),
        "Nothing on this page was run on a GPU, where `python -m benchmarks.gflownet_em --reference PATH --device cuda` times the captured step, too.",
    ]


def section(name: str, results: dict[str, Any]) -> list[str]:
    """One table: numbers, how they were made, how to read them, what differs."""
    meta = results["meta"]
    spec = settings.worded_as_usual(meta["name"], meta["budget"])
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
