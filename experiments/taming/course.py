"""A stage in training: updates, looks, the best state, the clock; kept on disk, so that the same command goes on where it stopped.

The clock counts training alone, looks and saves excluded; each look waits for the device before it is read.
"""

import copy
import csv
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from experiments.execute import Progress
from experiments.machine import digest
from latentcomp import __version__, checkpoint, locks
from latentcomp.checkpoint import Stateful
from latentcomp.data.shuffled import Shuffled
from latentcomp.engine import Engine
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.training import Descent
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.random_states import RandomStates
from latentcomp.signals import Signals
from latentcomp.train import fit

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAST, DONE, CURVE = "last.pt", "stage.pt", "curve.csv"


class Looks(NamedTuple):
    """When a stage is looked at, and what decides which state is kept.

    Attributes:
        every: updates between two looks.
        look: numbers of the state; the one called ``watched`` decides, the least is best.
        watched: its name; None keeps the last state.
    """

    every: int
    look: Callable[[], dict[str, float]]
    watched: str | None = None


class Place(NamedTuple):
    """Where a stage is trained.

    Attributes:
        folder: of checkpoints; None for none.
        fabric: a launched Fabric of one process, or None.
        progress: called with the step at each look.
    """

    folder: Path | None = None
    fabric: "Fabric | None" = None
    progress: Progress = lambda step: None


class Course:
    """How training went.

    Args:
        kept: the modules whose best state is kept.
    """

    def __init__(self, kept: Mapping[str, nn.Module]) -> None:
        self.modules = dict(kept)
        self.step, self.best, self.best_step, self.seconds = 0, math.inf, 0, 0.0
        self.curve: list[dict[str, float]] = []
        self.kept: dict[str, Any] = {}

    def add(self, numbers: dict[str, float], watched: str | None) -> None:
        """A look; keeps the state if it is the best, or if nothing is watched."""
        self.curve.append({"step": self.step, "seconds": self.seconds} | numbers)
        if watched is None or numbers[watched] < self.best or not self.kept:
            self.best, self.best_step = numbers.get(watched or "", math.inf), self.step
            self.kept = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items()}

    def written(self, path: Path) -> None:
        """The looks so far, as a table to watch a long run by."""
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for look in self.curve for name in look)))
            writer.writeheader()
            writer.writerows(self.curve)

    def restore(self) -> None:
        """Gives the modules the state that was kept."""
        for name, module in self.modules.items():
            module.load_state_dict(self.kept[name])

    def state_dict(self) -> dict[str, Any]:
        """All but the modules."""
        return {key: value for key, value in vars(self).items() if key != "modules"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        vars(self).update(state)


def trained(model: LatentVariableModel, learner: Learner, batches: Shuffled, descent: Descent, looks: Looks, place: Place, course: Course) -> None:
    """Trains on all batches.

    Args:
        model: theta.
        learner: phi.
        batches: to learn from.
        descent: optimiser, schedule, weight average; the average is what is looked at and kept.
        looks: when, at what.
        place: device and checkpoints.
        course: keeps the best state of its modules.

    Raises:
        Interrupted: a signal asked the run to end, and it has saved.
    """
    Engine(place.fabric).place(model, learner, [descent.optimizer])
    average = WeightAverage(descent.average, *course.modules.values())
    parts: dict[str, Stateful] = {**course.modules, "learning": learner, "optimizer": descent.optimizer, "average": average, "course": course}
    parts |= {"random": RandomStates()} | ({} if descent.scheduler is None else {"scheduler": descent.scheduler})
    if place.folder is not None and (place.folder / LAST).exists():
        checkpoint.load(place.folder / LAST, parts)
    _mode(model, learner, True)
    start, rest = time.perf_counter(), batches.after(course.step)
    with Signals() if place.folder is not None else nullcontext() as signals:
        for step, metrics in enumerate(fit(model, learner, rest, descent.optimizer, clip=descent.clip, fabric=place.fabric), course.step + 1):
            if descent.scheduler is not None:
                descent.scheduler.step()
            average.update()
            asked, due = signals is not None and signals.asked(), step % looks.every == 0 or step == batches.updates
            if not (asked or due):
                continue
            numbers = {name: float(value) for name, value in metrics.items()}  # waits for the device
            course.step, course.seconds = step, course.seconds + time.perf_counter() - start
            if due:
                _mode(model, learner, False)
                with average.applied():
                    course.add(numbers | looks.look(), looks.watched)
                _mode(model, learner, True)
                place.progress(step)
            if place.folder is not None:
                checkpoint.save(place.folder / LAST, parts)
                course.written(place.folder / CURVE)
            if signals is not None and asked:
                signals.end(f"after {step} of {batches.updates} batches")
            start = time.perf_counter()


def shared(folder: Path | None, identity: Mapping[str, Any], course: Course, train: Callable[[Path | None], None]) -> None:
    """Brings modules into a trained state, in evaluation mode: the one on disk, or by training, which is then kept there.

    Args:
        folder: of all shared states; None keeps nothing.
        identity: what makes this state this one; its hash is the name of the state's own folder, where runs side by side wait for each other.
        course: of the modules.
        train: trains them; given the folder for its checkpoints.
    """
    if folder is None:
        train(None)
    else:
        own = folder / digest({"version": __version__, **identity})
        own.mkdir(parents=True, exist_ok=True)
        with locks.holding(own, wait=True):
            if (own / DONE).exists():
                checkpoint.load(own / DONE, {"course": course})
            else:
                train(own)
                checkpoint.save(own / DONE, {"course": course})
                (own / LAST).unlink(missing_ok=True)
    course.restore()
    for module in course.modules.values():
        module.eval()


def _mode(model: LatentVariableModel, learner: Learner, training: bool) -> None:
    model.train(training)
    learner.train(training)
