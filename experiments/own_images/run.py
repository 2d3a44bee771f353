"""What both stages do between updates: look once an epoch, keep the best state, save, stop early, and go on where a killed run was."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.execute import Progress, plain
from experiments.own_images.board import Board
from experiments.own_images.states import Plain, resumed
from experiments.own_images.stopping import Stopping
from experiments.results import write_json
from latentcomp import checkpoint
from latentcomp.checkpoint import Stateful
from latentcomp.data.image_folder import ImageFolder
from latentcomp.evaluate.protocol import Measure

LAST, CONFIG = "last.pt", "config.json"


def made(node: DictConfig | None) -> Any:
    """What a part of the configuration names; an error of it in its own words."""
    try:
        return instantiate(node)
    except InstantiationException as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from error


def pictures(config: DictConfig | Any) -> ImageFolder:
    """The folder of pictures of a run."""
    if config.root is None:
        raise SystemExit("error: give data.root=FOLDER, the folder that holds the pictures")
    return made(config)


def folder_of(config: DictConfig, place: Path | None) -> Path:
    """Where a run's files go: the given folder, or that of the given file; ``outputs`` where none is given."""
    if place is None:
        return Path(config.outputs)
    return place.parent if place.suffix else place


class Run:
    """A stage in training.

    Args:
        config: ``budget`` (updates, every), ``watched``, ``patience``, ``tensorboard``.
        folder: of its files.
        per_epoch: updates an epoch.
        parts: its state, by name.
    """

    def __init__(self, config: DictConfig, folder: Path, per_epoch: int, parts: Mapping[str, Stateful]) -> None:
        self.updates, self.per_epoch, self.folder = config.budget.updates, per_epoch, folder
        self.every = min(config.budget.every or per_epoch, config.budget.updates)
        self.state, self.stopping = Plain(), Stopping(config.watched, config.patience)
        self.parts: dict[str, Stateful] = {**parts, "run": self.state, "stopping": self.stopping}
        if resumed(folder / LAST, self.parts):
            print(f"goes on after {self.state.step} of {self.updates} updates, from {folder / LAST}")
        self.board = Board(folder, config.tensorboard)
        write_json(folder / CONFIG, plain(config))

    @property
    def curve(self) -> list[dict[str, float]]:
        """The looks so far."""
        return self.state.curve

    def go(self, updates: Iterator[Mapping[str, Tensor]], look: Callable[[], dict[str, float]], keep: Callable[[], None], progress: Progress) -> None:
        """Makes the updates that are left.

        Args:
            updates: yields each one's metrics.
            look: what is measured of the state, once an epoch.
            keep: saves a state that is the best.
            progress: called with the step at each look.
        """
        if self.stopping.ends:
            return
        means, start = Means(), time.perf_counter()
        for step, metrics in enumerate(updates, self.state.step + 1):
            means.update(metrics)
            if step % self.every and step != self.updates:
                continue
            self.state.seconds += time.perf_counter() - start
            self.state.step = step
            self.curve.append({"epoch": step / self.per_epoch, "step": step, **means.values(), **look(), "seconds": self.state.seconds})
            if self.stopping.better(self.curve[-1]):
                keep()
            self.board.look(self.curve)
            checkpoint.save(self.folder / LAST, self.parts)
            progress(step)
            if self.stopping.ends:
                print(f"{self.stopping.metric} has not become better for {self.stopping.patience} looks: the run ends early, with the best state")
                return
            means, start = Means(), time.perf_counter()

    def ended(self, data: ImageFolder) -> None:
        """Says what was left out, and closes the files."""
        self.board.close()
        if data.report:
            print(data.report)

    def best(self) -> dict[str, float]:
        """The look that was kept."""
        return min(self.curve, key=lambda look: self.stopping.sign * look[self.stopping.metric])


class Means:
    """The mean of each metric over the updates that had it; read from the device once."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def update(self, metrics: Mapping[str, Tensor]) -> None:
        """Adds an update's."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + 1

    def values(self) -> dict[str, float]:
        """As numbers."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


def records(config: DictConfig, row: str, measures: Mapping[str, Measure], seconds: float) -> list[dict[str, Any]]:
    """Measures as a table's records."""
    common = {"seconds": seconds, "source": config.source, "config": plain(config)}
    return [
        {"row": row, "seed": config.seed, "metric": name, "expected": config.expected.get(name)} | measure._asdict() | common
        for name, measure in measures.items()
    ]


def numbers(measures: Mapping[str, Measure]) -> dict[str, float]:
    """Those that are finite, as numbers."""
    return {name: measure.value for name, measure in measures.items() if measure.value is not None}
