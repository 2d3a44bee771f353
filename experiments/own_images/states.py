"""The state of a run on disk: what goes on is what stopped, and what is judged is the best look's."""

import copy
from pathlib import Path
from typing import Any

import torch

from latentcomp import checkpoint
from latentcomp.checkpoint import Stateful
from latentcomp.evaluate.averaging import WeightAverage


class Plain:
    """Plain data as a part of a checkpoint: where the run is, its curve, and the time it took."""

    def __init__(self) -> None:
        self.step, self.curve, self.seconds = 0, list[dict[str, float]](), 0.0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return copy.deepcopy(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        vars(self).update(state)


class Averaged:
    """The mean of a weight average as a part of a checkpoint."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def state_dict(self) -> dict[str, Any]:
        """The mean."""
        return {"average": list(self.average.average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        for mean, saved in zip(self.average.average, state["average"], strict=True):
            mean.copy_(saved)


def resumed(path: Path, parts: dict[str, Stateful]) -> bool:
    """Whether there was a state to go on from; it is restored.

    Raises:
        ValueError: the file is damaged or of another kind of run, or its networks have another size; says to begin anew elsewhere.
    """
    if not path.exists():
        return False
    try:
        checkpoint.load(path, parts)
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} belongs to another run ({said}): give the options that it was begun with, or another folder with outputs=FOLDER") from error
    return True


def device() -> torch.device:
    """The machine's accelerator, or its processor."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
