"""Stages that several rows want: each is trained once, as a run of its own in a folder of its own, and taken from there by all others.

Such a run is carried out as any other (``Job.trained``): it leaves its log, saves itself, ends after a signal and goes on where it stopped, whichever row takes
it up. So what names it is what makes the stage, and nothing of the row that trains it. Rows that run side by side wait for each other.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from torch import nn

from experiments.job import Job, plain
from experiments.machine import digest
from latentcomp import __version__, checkpoint, processes
from latentcomp.evaluate.training import Training

DONE = "stage.pt"
CARRIED_OUT = ("seed", "machine", "log", "precision")  # what a stage has of its row: how a run is carried out


class Stage(NamedTuple):
    """What a shared stage is.

    Attributes:
        kind: the folder of all of its kind, which stands beside the folders of the rows.
        settings: all that makes it what it is, but for its seed and precision, which are its row's.
        modules: what is kept of it, by name.
    """

    kind: str
    settings: Mapping[str, Any]
    modules: Mapping[str, nn.Module]

    def job(self, job: Job) -> Job:
        """Its own run, the same whichever row asks for it; nobody is told of its steps."""
        config = OmegaConf.create({**self.settings, **{key: job.config[key] for key in CARRIED_OUT}})
        named = job._replace(config=config, row=self.kind, progress=lambda step: None)
        return named._replace(folder=job.folder and job.folder.parent / self.kind / digest({"version": __version__, **plain(config)}))


class _Record:
    """How a stage was trained, as a part of its file."""

    def __init__(self, training: Training | None = None) -> None:
        self.training = training

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {} if self.training is None else self.training._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.training = Training(**state)


def shared(job: Job, stage: Stage, train: Callable[[Job], Training]) -> Training:
    """Brings a stage's modules into their trained state, in evaluation mode: the one on disk, or by training, which is then kept there.

    Args:
        job: of the row; without a folder nothing is kept.
        stage: which one.
        train: trains the modules, given the stage's own run.

    Raises:
        Interrupted: a signal asked the run to end.
        PeerFailed: another process of the run stopped with an error.
    """
    own = stage.job(job)
    if own.folder is None:
        return train(own)
    with processes.Watch(), _alone(own.folder):
        return _kept(own.folder, stage.modules, lambda: train(own))


def _kept(folder: Path, modules: Mapping[str, nn.Module], train: Callable[[], Training]) -> Training:
    """Every process does what the first one sees."""
    path = folder / DONE
    if processes.any_of(processes.rank() == 0 and path.exists()):
        record = _Record()
        checkpoint.load(path, {**modules, "training": record})
        for module in modules.values():
            module.eval()
        assert record.training is not None
        return record.training
    training = train()
    with processes.Together():
        if processes.rank() == 0:
            checkpoint.save(path, {**modules, "training": _Record(training)})
            for passed in folder.glob("states/*/step-*"):  # the way there is not gone twice
                shutil.rmtree(passed, ignore_errors=True)
    return training


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within it no other row is; the lock is freed also where its process dies. Processes of one run wait together, so that none gives the others up.

    ``latentcomp.locks`` keeps processes apart, and refuses the second; here rows wait for each other, threads of one process too.
    """
    if processes.rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            while not processes.any_of(_taken(lock)):
                time.sleep(0.2)
            yield
    else:
        while not processes.any_of(False):
            pass
        yield


def _taken(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
