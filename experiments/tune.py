"""The tuning of a table: ``python -m experiments.tune NAME [budget=cpu] [setting=value ...]``.

Every row, or those that the table names for it, is run with every setting of the table's grid (``tuning`` in conf/table/NAME.yaml, at most nine settings) on
one seed that the table does not report, and judged by one number of validation data (``by``). The trials go to conf/tuning/NAME.json, where a trial that was
made already with the very same configuration is not made again; the best setting of each row is printed, and is to stand in the row's configuration (a test
compares the two where there are trials).
"""

import itertools
import sys
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from experiments import pool, settings, tried
from experiments.tried import Trial, Wanted

FOLDER = settings.CONF / "tuning"
BY = "val_nll_fitted_prior"  # where a table says nothing else


def grid(spec: dict[str, Any]) -> list[tuple[str, ...]]:
    """All settings of a table's grid, as overrides."""
    axes = [[f"{key}={value}" for value in values] for key, values in spec["tuning"]["grid"].items()]
    return list(itertools.product(*axes))


def rows(spec: dict[str, Any]) -> list[str]:
    """Those that are tuned: all of the table, or those that it names because the others have their settings from them."""
    return spec["tuning"].get("rows", spec["rows"])


def by(spec: dict[str, Any]) -> str:
    """The number that decides, the least is best."""
    return spec["tuning"].get("by", BY)


def trials_file(name: str, budget: str = "cpu") -> Path:
    """Where the trials of a table are kept."""
    return FOLDER / f"{name if budget == 'cpu' else f'{name}-{budget}'}.json"


def best(spec: dict[str, Any], trials: list[Trial], row: str) -> Trial:
    """The trial of a row with the lowest number on validation data."""
    return min((trial for trial in trials if trial["row"] == row), key=lambda trial: trial[by(spec)])


def trial(name: str, row: str, budget: str, overrides: tuple[str, ...], setting: tuple[str, ...]) -> Trial:
    """One run, judged on validation data."""
    config = settings.row(name, row, budget, settings.table(name)["tuning"]["seed"], (*overrides, *setting))
    records, _ = get_method(config.procedure)(config, row, pool.Reporter(config.batches))
    values = {record["metric"]: record["value"] for record in records}
    validation = {key: value for key, value in values.items() if key.startswith("val_")}
    return {"setting": list(setting), "seconds": values["seconds"]} | validation


def tune(name: str, budget: str = "cpu", overrides: tuple[str, ...] = ()) -> list[Trial]:
    """Runs the trials that are missing and writes them all.

    Raises:
        UnknownName: the table has no grid, or no such budget; lists those that there are.
    """
    spec = settings.table(name)
    if "tuning" not in spec:
        raise settings.unknown("table with a grid to tune", name, [table for table in settings.tables() if "tuning" in settings.table(table)])
    if budget not in settings.budgets(spec):
        raise settings.unknown("budget", budget, settings.budgets(spec))
    seed, order = spec["tuning"]["seed"], rows(spec)
    wanted = [
        Wanted(row, " ".join(setting), settings.row(name, row, budget, seed, (*overrides, *setting)), (name, row, budget, overrides, setting))
        for row in order
        for setting in grid(spec)
    ]
    return tried.completed(trials_file(name, budget), trial, wanted, lambda made: (order.index(made["row"]), made["setting"]))


def main(arguments: list[str]) -> None:
    """Tunes, and prints the best setting of each row."""
    if not arguments or not all("=" in argument for argument in arguments[1:]):
        raise SystemExit(f"{__doc__}\nTables: {', '.join(table for table in settings.tables() if 'tuning' in settings.table(table))}")
    name, *rest = arguments
    budget = next((argument.partition("=")[2] for argument in rest if argument.startswith("budget=")), "cpu")
    finished, spec = tune(name, budget, tuple(argument for argument in rest if not argument.startswith("budget="))), settings.table(name)
    for row in rows(spec):
        if any(made["row"] == row for made in finished):
            winner = best(spec, finished, row)
            print(f"{row:24s} {' '.join(winner['setting']):44s} {by(spec)} {winner[by(spec)]:.4g}")


if __name__ == "__main__":
    main(sys.argv[1:])
