"""What happens at each look: its numbers are logged, a collapse is warned of, pictures are drawn."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from experiments.watching.board import Board
from experiments.watching.grids import save
from latentcomp import processes
from latentcomp.evaluate.budget import Log, Looks
from latentcomp.evaluate.collapse import Health, detect_collapse, health
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel


class Shows(NamedTuple):
    """What is seen of a run at its looks besides its numbers.

    Attributes:
        images: validation images whose codes are watched for a collapse; None where others do.
        picture: draws the state ``(C, h, w)``; None for no picture.
        board: prints the numbers; or None.
    """

    images: Tensor | None = None
    picture: Callable[[], Tensor] | None = None
    board: Board | None = None


class Watcher:
    """What is seen of a run at its looks, which its folder and its log get.

    It sees what is judged: the networks in evaluation mode under their averaged weights.

    Args:
        looks: what is measured.
        shows: what else is seen.
        folder: for the pictures, or None.
        log: for numbers and pictures; None for neither.

    Attributes:
        looks: the same, seen.
        best: the best health so far.
    """

    def __init__(self, looks: Looks, shows: Shows, folder: Path | None, log: Any) -> None:
        self._measure, self.shows, self.folder, self.log = looks.measure, shows, folder, log
        self.looks = looks._replace(measure=self.measure)
        self.best: Health | None = None
        self._seen: dict[str, float] = {}
        self._picture: Tensor | None = None

    @property
    def _sees(self) -> bool:
        return self.folder is not None and processes.rank() == 0

    def measure(self, model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        """The numbers of the state; on the way, its health and its picture."""
        numbers = self._measure(model, learner)
        self._seen, self._picture = dict(numbers), None
        if self._sees and self.shows.images is not None:
            now = health(model, learner.posterior, self.shows.images)
            self.best = detect_collapse(now, self.best)
            self._seen |= {"perplexity": now.perplexity, "used": now.used}
        if self._sees and self.log is not None and self.shows.picture is not None:
            self._picture = self.shows.picture()
        return numbers

    def __call__(self, step: int, look: dict[str, float]) -> None:
        """A look that was measured goes where it belongs."""
        if self.folder is None or not self._sees:
            return
        if self.shows.board is not None:
            self.shows.board(look)
        if self.log is not None:
            self.log.look(step, self._seen)
        if self._picture is not None:
            path = self.folder / "images" / f"step-{step:09d}.png"
            try:
                save(self._picture, path)
            except OSError as error:
                warnings.warn(f"{path} could not be written ({error.strerror or error}); the run goes on without it", stacklevel=2)
            self.log.picture(step, "images", self._picture)

    def state_dict(self) -> dict[str, Any]:
        """The best health and what the board has printed, as plain data."""
        board = self.shows.board
        return {"best": None if self.best is None else list(self.best), "board": None if board is None else board.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.best = None if state["best"] is None else Health(*state["best"])
        if self.shows.board is not None:
            self.shows.board.load_state_dict(state["board"])


class Watched:
    """A log that is saved together with what a watcher has seen, so that a run that goes on warns of a collapse as one that was never stopped.

    Args:
        log: of the run.
        watcher: of its looks.
    """

    def __init__(self, log: Log, watcher: Watcher) -> None:
        self.log, self.watcher = log, watcher

    def __call__(self, step: int, metrics: dict[str, Tensor]) -> None:
        """The log's own."""
        self.log(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        """How far the log is, and what the watcher has seen."""
        return {"log": self.log.state_dict(), "watcher": self.watcher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to it."""
        self.log.load_state_dict(state["log"])
        self.watcher.load_state_dict(state["watcher"])
