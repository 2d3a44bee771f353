"""Trials of a table's rows: ``python -m experiments.trials NAME data.root=PATH``.

Where a whole grid for every row would take days (``experiments.tune``), some settings of some rows are tried, each on one seed that the table does not report:
it trains as in the table, and counts by its last look at the validation images, without second stage and judgement. What is tried stands in
conf/trials/NAME.yaml, what came of it in conf/trials/NAME.json, where a trial that was made already with the very same configuration is not made again.
"""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments import pool, settings, tried
from experiments.execute import build
from experiments.job import Job, Result, procedure
from experiments.machine import on_device
from experiments.tried import Trial, Wanted
from latentcomp.evaluate.protocol import Measure

FOLDER = settings.CONF / "trials"


@procedure
def looked(job: Job) -> Result:
    """Trains; the only number is that of the last look."""
    made = build(job.config)
    training = job.trained(made._replace(data=on_device(made.data, job.fabric)))
    return job.records({"val_nll": Measure(training.curve[-1]["val_nll"], "nats")}, training.seconds), {"curve": training.curve}


def specification(name: str) -> dict[str, Any]:
    """What is tried of a table: ``seed``, ``overrides`` of all trials, and ``trials``, for each row by words the overrides.

    Raises:
        UnknownName: lists the tables that have trials.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.exists():
        raise settings.unknown("table with trials", name, [path.stem for path in FOLDER.glob("*.yaml")])
    spec = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(spec, dict)
    return {str(key): value for key, value in spec.items()}


def configured(name: str, given: tuple[str, ...] = ()) -> list[Wanted]:
    """All trials of a table."""
    spec = specification(name)
    every = [(row, words, overrides) for row, settings_of in spec["trials"].items() for words, overrides in settings_of.items()]
    configs = [settings.row(name, row, "cpu", spec["seed"], (*spec["overrides"], *own, *given)) for row, _, own in every]
    return [Wanted(row, words, config, (row, words, config)) for (row, words, _), config in zip(every, configs, strict=True)]


def trial(row: str, words: str, config: DictConfig) -> Trial:
    """One of them."""
    records, shown = looked(config, row, pool.Reporter(config.batches))
    (record,) = records
    curve = [[look["step"], round(look["val_nll"], 2)] for look in shown["curve"]]
    return {"setting": words, "val_nll": round(record["value"], 2), "curve": curve, "seconds": round(record["seconds"], 1)}


def run(name: str, given: tuple[str, ...] = ()) -> list[Trial]:
    """Makes the trials that are missing, and writes them all, the best of each row first."""
    return tried.completed(FOLDER / f"{name}.json", trial, configured(name, given), lambda made: (made["row"], made["val_nll"]))


def main(arguments: list[str]) -> None:
    """Runs them, and prints what came of each."""
    known = [path.stem for path in sorted(Path(FOLDER).glob("*.yaml"))]
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(f"{__doc__}\nTables: {', '.join(known)}")
    for made in sorted(run(arguments[0], tuple(arguments[1:])), key=lambda made: (made["row"], made["val_nll"])):
        print(f"{made['row']:22s} {made['val_nll']:8.2f} nats  {made['setting']}")


if __name__ == "__main__":
    main(sys.argv[1:])
