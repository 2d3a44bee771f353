"""What every procedure shares: a run with its folder and its device, how it trains, and how its numbers become records.

A procedure says what is trained, what is looked at and what is measured in the end. How that is carried out stands here once: device, precision, clipping
and accumulation, checkpoints and exact resume, signals and exit codes, logs, pictures and the bar.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments import options
from experiments.machine import fabric, keep_failure, machine
from experiments.watching.watcher import Shows, Watched, Watcher
from latentcomp import processes
from latentcomp.data.split import Split
from latentcomp.engine import Engine
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import Budget, Descent, Looks, Source, Training, train, usual_looks
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.signals import interruptible
from latentcomp.train import NonFiniteLoss

Progress = Callable[[int], None]
Result = tuple[list[dict[str, Any]], dict[str, Any]]  # records, one for each metric, and pictures as plain tensors
USUAL = {"precision": "32-true", "clip": None, "also": None}  # settings that are no part of a configuration as long as they are what they always were


D = TypeVar("D", bound=Source)


class Built(NamedTuple, Generic[D]):
    """What a run is made of."""

    data: D
    model: LatentVariableModel
    learner: Learner
    descent: Descent
    budget: Budget


class Job(NamedTuple):
    """A run to be carried out.

    Attributes:
        config: the run.
        row: its name in the table.
        progress: called with the step at each look; in a run with a folder, with every step.
        folder: of the run, which gets its checkpoints, logs and grids of images, and from which it goes on if it was stopped; or None.
        fabric: a launched Fabric, or None.
    """

    config: DictConfig
    row: str
    progress: Progress
    folder: Path | None
    fabric: Any

    @property
    def engine(self) -> Engine:
        """Where it computes."""
        return Engine(self.fabric)

    def trained(self, made: Built[Any], looks: Looks | None = None, shows: Shows | None = None, about: Mapping[str, Any] | None = None) -> Training:
        """Trains, and leaves model and learner in the state that the looks choose.

        Args:
            made: data, model, learner, descent and budget.
            looks: what is measured of it and which state is kept; by default that of the best validation NLL.
            shows: what is seen of it at each look besides numbers.
            about: what makes it this run beside its configuration, such as the weights that it begins with.

        Raises:
            NonFiniteLoss: names the step, the learner, the term and the batch, which the folder holds.
            Interrupted: a signal asked the run to end; it has saved.
        """
        config = self.config
        how = machine(config, {"row": self.row, "config": plain(config), **(about or {})}, self.folder, self.fabric, self.progress)
        looks = looks or usual_looks(made.model, made.data, made.budget, how)
        watcher = Watcher(looks, shows or Shows(), self.folder, how.log if config.log.pictures else None)

        def watch(step: int, look: dict[str, float]) -> None:
            watcher(step, look)
            if self.folder is None:
                self.progress(step)

        log = how.log and Watched(how.log, watcher)
        try:
            return train(made.model, made.learner, made.data, made.descent, made.budget, config.seed, watch, how._replace(log=log), watcher.looks)
        except NonFiniteLoss as error:
            raise keep_failure(error, made.model, made.learner, self.folder) from None

    def also(self, model: LatentVariableModel, learner: Learner, data: Split) -> dict[str, Measure]:
        """The further measures that the configuration asks for."""
        measures = instantiate(self.config.also)
        return {} if measures is None else measures(model, learner, data)

    def records(self, measures: Mapping[str, Measure], seconds: float) -> list[dict[str, Any]]:
        """Measures as a table's records."""
        config = self.config
        common = {"seconds": seconds, "source": config.source, "config": plain(config)}
        return [
            {"row": self.row, "seed": config.seed, "metric": name, "expected": config.expected.get(name)} | measure._asdict() | common
            for name, measure in measures.items()
        ]


def procedure(body: Callable[[Job], Result]) -> Callable[..., Result]:
    """A procedure, as everyone calls it: with a configuration, the name of its row, whom to tell of its steps, and a folder.

    What it does may raise:
        RefusedOption: an option that the procedure does not honour.
        NonFiniteLoss: names the step, the learner, the term and the batch, which the folder holds.
        Interrupted: a signal asked the run to end; it has saved. Outside training it ends at once, in training after its step.
        PeerFailed: another process of the run failed, wherever it was; says which, and why.
    """

    @functools.wraps(body)
    def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> Result:
        options.refuse(config)
        with interruptible(folder is not None):
            job = Job(config, row, progress, folder, fabric(config))
            with processes.Together():  # in building, judging and drawing, too, no process waits for one that has failed
                records, pictures = body(job)
            return records, _on_host(pictures)

    return execute


def _on_host(shown: Any) -> Any:
    """Pictures where everyone can look at them, whatever the device was."""
    if isinstance(shown, dict):
        return {key: _on_host(value) for key, value in shown.items()}
    return shown.cpu() if isinstance(shown, Tensor) else shown


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, what is resolved included; where results go and what they are compared with is no part of it."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    kept = {str(key): value for key, value in resolved.items() if key not in ("outputs", "expected", "source", "machine", "log")}
    return {key: value for key, value in kept.items() if key not in USUAL or value != USUAL[key]}


def budget(config: DictConfig) -> Budget:
    """How long a run is, and how often it looks."""
    limits = {key: value for key, value in config.budget.items() if key in Budget._fields and value is not None} | {"updates": config.batches}
    return Budget(**limits)
