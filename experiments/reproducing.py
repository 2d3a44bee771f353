"""docs/reproducing.md: ``python -m experiments.reproducing``.

Every table that has been run and published, with the numbers that the paper or its code prints beside ours, the machine, the seeds and the command, and
what differs from the published experiment and why; then the speed against the published code. Tables without a published run are named as such. The page
is put together from docs/results and from the tables' configurations: no figure in it is typed by hand.
"""

import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from experiments import settings, tables
from experiments.publish import DOCS

PAGE = DOCS.parent / "reproducing.md"
SPEED = DOCS.parent.parent / "benchmarks" / "results" / "gflownet_em.json"
INTRODUCTION = (
    "Written by `python -m experiments.reproducing` from the runs in [results](results); a number stands here only if a run gave it. "
    "Columns named *expected* hold what the paper or its code prints."
)
WANTED = {"e_step": 9.0, "sleep_step": 9.0, "m_step": 2.5, "log_px_untrained": 8.0, "log_px_trained": 30.0, "peak_memory": 1.0}


def page() -> str:
    """The whole page."""
    stored = {path.stem: json.loads(path.read_text()) for path in sorted(DOCS.glob("*.json"))}
    parts = ["# Reproducing", INTRODUCTION]
    for name, results in stored.items():
        parts += section(name, results)
    missing = [name for name in settings.tables() if name not in stored]
    if missing:
        commands = "\n".join(f"- `python -m experiments.reproduce {name}`: {settings.table(name)['title']}" for name in missing)
        parts += ["## Not run yet", f"These tables have no published run on this page's machines:\n\n{commands}"]
    if SPEED.exists():
        parts += speed(json.loads(SPEED.read_text()))
    return "\n\n".join(parts) + "\n"


def section(name: str, results: dict[str, Any]) -> list[str]:
    """One table: numbers, how they were made, how to read them, what differs."""
    spec, meta = settings.table(name), results["meta"]
    made = f"{meta['hardware']}; {len(meta['seeds'])} seeds; {meta['minutes']:.1f} minutes; latentcomp {meta['version']}."
    reading = [f"*How to read it.* {spec['reading'].strip()}"] if "reading" in spec else []
    differs = [f"*What differs from the published experiment, and why.* {spec['differs'].strip()}"] if "differs" in spec else []
    words = [tables.untitled(results["records"], spec).strip(), f"Made by `{meta['command']}` on {made} Figures: [{name}](results/{name}.md)."]
    return [f"## {spec['title']}", *words, *reading, *differs]


def speed(results: dict[str, Any]) -> list[str]:
    """The ratios of benchmarks.gflownet_em, each beside what was wanted."""
    how = results["measured"]
    rows = [[name, results[name], f"at {'most' if name == 'peak_memory' else 'least'} {wanted:g}"] for name, wanted in WANTED.items() if name in results]
    rows += [[f"textbook loop / reference, {name}", value, "at most 1.2"] for name, value in results.get("textbook_over_reference", {}).items()]
    sizes = ", ".join(f"{key} {value}" for key, value in how["sizes"].items())
    trained = results.get("trained", {})
    run = [f"The trained weights: `{trained['command']}`; updates {trained['updates']}, {_numbers(trained)}."] if trained else []
    return [
        "## Speed of GFlowNet-EM",
        f"How many times as fast as the {results['against']}; for memory, ours over theirs.",
        tabulate(rows, ["", "ratio", "wanted"], "pipe", floatfmt=("", ".2f", "")),
        f"Made by `{how['command']}` on {how['hardware']}, {how['threads']} threads; {sizes}. How: {how['how']}.",
        *run,
    ]


def _numbers(trained: dict[str, Any]) -> str:
    names = {
        "test_nll": "test NLL (nats)",
        "test_images": "test images",
        "mean_ess": "mean effective sample size",
        "mean_distinct_codes": "mean distinct codes",
    }
    return ", ".join(f"{label} {trained[name]:.1f}" if isinstance(trained[name], float) else f"{label} {trained[name]}" for name, label in names.items())


def write(path: Path = PAGE) -> None:
    """Writes the page."""
    path.write_text(page())


if __name__ == "__main__":
    write()
