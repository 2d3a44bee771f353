"""What is tried before a table is run, and kept beside it: what was tried is not tried again.

A trial is a row with some settings on a seed that the table does not report. What came of it stands in a JSON file of the repository, under the fingerprint of
the row's whole configuration, so that a trial of other settings, or of a configuration that has changed since, is another trial.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from experiments import pool
from experiments.job import plain
from experiments.results import fingerprint, write_json

Trial = dict[str, Any]
LATER = {"average": 0.0, "prior": None, "proposal": None, "schedule": None, "rates": {"theta": 1, "phi": 1, "log_z": 1}}
FIRST = {  # what has another name since, by the one under which it was tried first
    "latentcomp.codebook.codebook.Codebook": "latentcomp.codebook.Codebook",
    "latentcomp.codebook.ema_codebook.EMACodebook": "latentcomp.codebook.EMACodebook",
}


class Wanted(NamedTuple):
    """A trial to be made, unless it was.

    Attributes:
        row: of the table.
        words: what it is called, within its row.
        config: of the run.
        job: the arguments of the function that makes it.
    """

    row: str
    words: str
    config: DictConfig
    job: tuple[Any, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.row, fingerprint(comparable(self.config))

    @property
    def about(self) -> Trial:
        """What a trial's record says of it besides what came of it."""
        return {"row": self.row, "config": self.key[1], "seed": self.config.seed}


def comparable(config: DictConfig) -> dict[str, Any]:
    """What of a configuration decides what comes of it, in the words of the first trials.

    Without the place of the data, which is each machine's own; and without settings that came later (``LATER``, and ``batches``) where they leave a run as it
    was before: a new setting with a neutral default must not have everything tried again. Whoever adds one to the configuration adds it there.
    """
    whole = plain(config)
    data = {key: value for key, value in whole["data"].items() if key != "root"}
    later = LATER | {"batches": whole["budget"].get("updates")}
    return _first_named({key: value for key, value in (whole | {"data": data}).items() if key not in later or value != later[key]})


def _first_named(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: FIRST.get(below, below) if key == "_target_" else _first_named(below) for key, below in value.items()}
    return [_first_named(below) for below in value] if isinstance(value, list) else value


def stored(path: Path) -> list[Trial]:
    """What was tried; nothing where nothing was."""
    return json.loads(path.read_text()) if path.exists() else []


def completed(path: Path, trial: Callable[..., Trial], wanted: Sequence[Wanted], order: Callable[[Trial], Any]) -> list[Trial]:
    """Makes the trials that are missing, side by side, and keeps them all as they come.

    Args:
        path: of the file. Trials in it that are not wanted any more are dropped.
        trial: makes one from its ``job``, and says what came of it; importable by name.
        wanted: all trials.
        order: of the records in the file, as a key to sort by.
    """
    keys = {one.key: one for one in wanted}
    trials = [old for old in stored(path) if (old["row"], old["config"]) in keys]
    done = {(old["row"], old["config"]) for old in trials}
    missing = [one for key, one in keys.items() if key not in done]
    names, steps = [f"{one.row}, {one.words}" for one in missing], [one.config.batches for one in missing]
    for number, result in pool.side_by_side(trial, [one.job for one in missing], names, steps, len(trials)):
        if isinstance(result, BaseException):
            print(f"{names[number]} failed: {result}")  # a setting that diverges has lost
            continue
        trials.append(missing[number].about | result)
        write_json(path, sorted(trials, key=order))
    return trials
