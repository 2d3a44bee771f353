"""The tuning of a table: ``python -m experiments.tune NAME``.

Every row is run with every setting of the table's grid (``tuning`` in conf/table/NAME.yaml, at most nine settings) on one seed that the table does not
report, and judged on validation images under the fitted prior. The trials go to conf/tuning/NAME.json, where a row that was tried already with the very
same configuration is not tried again; the best setting of each row is printed, and stands in the row's file (a test compares the two).
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from experiments import pool, settings
from experiments.execute import execute, plain
from experiments.results import fingerprint, write_json


def grid(spec: dict[str, Any]) -> list[tuple[str, ...]]:
    """All settings of a table's grid, as overrides."""
    axes = [[f"{key}={value}" for value in values] for key, values in spec["tuning"]["grid"].items()]
    return list(itertools.product(*axes))


def trials_file(name: str) -> Path:
    """Where the trials of a table are kept."""
    return settings.CONF / "tuning" / f"{name}.json"


def best(trials: list[dict[str, Any]], row: str) -> dict[str, Any]:
    """The trial of a row with the lowest validation NLL."""
    return min((trial for trial in trials if trial["row"] == row), key=lambda trial: trial["val_nll_fitted_prior"])


def trial(name: str, row: str, seed: int, setting: tuple[str, ...]) -> dict[str, Any]:
    """One run, judged on validation images."""
    before = 0

    def progress(step: int) -> None:
        nonlocal before
        pool.report(step - before)
        before = step

    config = settings.row(name, row, "cpu", seed, setting)
    records, _ = execute(config, row, progress)
    values = {record["metric"]: record["value"] for record in records}
    validation = {key: value for key, value in values.items() if key.startswith("val_")}
    return {"row": row, "seed": seed, "setting": list(setting), "seconds": values["seconds"], "config": fingerprint(plain(config))} | validation


def tune(name: str) -> list[dict[str, Any]]:
    """Runs the trials that are missing and writes them all."""
    spec, path = settings.table(name), trials_file(name)
    seed = spec["tuning"]["seed"]
    trials = json.loads(path.read_text()) if path.exists() else []
    wanted = [(name, row, seed, setting) for row in spec["rows"] for setting in grid(spec)]
    configs = [fingerprint(plain(settings.row(name, row, "cpu", seed, setting))) for name, row, seed, setting in wanted]
    trials = [old for old in trials if (old["row"], old["config"]) in {(job[1], config) for job, config in zip(wanted, configs, strict=True)}]
    done = {(old["row"], old["config"]) for old in trials}
    missing = [job for job, config in zip(wanted, configs, strict=True) if (job[1], config) not in done]
    batches = {row: settings.row(name, row, "cpu", seed).batches for row in spec["rows"]}
    names, steps = [f"{job[1]} {' '.join(job[3])}" for job in missing], [batches[job[1]] for job in missing]
    for number, result in pool.side_by_side(trial, missing, names, steps, len(trials)):
        if isinstance(result, BaseException):
            print(f"{missing[number][1]} with {missing[number][3]} failed: {result}")  # a setting that diverges has lost
        else:
            trials.append(result)
            write_json(path, sorted(trials, key=lambda t: (spec["rows"].index(t["row"]), t["setting"])))
    return trials


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"{__doc__}\nTables: {', '.join(settings.tables())}")
    finished = tune(sys.argv[1])
    for tuned in settings.table(sys.argv[1])["rows"]:
        winner = best(finished, tuned)
        print(f"{tuned:24s} {' '.join(winner['setting']):44s} val {winner['val_nll_fitted_prior']:.3f}")
