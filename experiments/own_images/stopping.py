"""Early stopping: a run that has not become better for a while ends."""

import math
from typing import Any

HIGHER = ("psnr", "ssim", "code_usage", "code_perplexity")  # of which more is better


class Stopping:
    """Remembers the best look.

    Args:
        metric: which number of a look decides.
        patience: looks without a better one, after which the run ends; 0 for never.
    """

    def __init__(self, metric: str, patience: int = 0) -> None:
        self.metric, self.patience = metric, patience
        self.sign = -1.0 if metric in HIGHER else 1.0
        self.best, self.since = math.inf, 0

    def better(self, look: dict[str, float]) -> bool:
        """Whether this look is the best so far.

        Raises:
            ValueError: a look has no such number; lists those it has.
            FloatingPointError: it is not finite in the first look, so that there is no state to keep; names the look.
        """
        if self.metric not in look:
            raise ValueError(f"watched={self.metric} is no number of a look; those are {', '.join(sorted(look))}")
        value = self.sign * look[self.metric]
        if not math.isfinite(value) and self.best == math.inf:
            raise FloatingPointError(
                f"{self.metric} is {look[self.metric]} at the look after step {look.get('step', 0):.0f}, and no look before it was finite, so no state is "
                "kept: lower optimizer.lr, or watch another number of a look"
            )
        self.since = 0 if value < self.best else self.since + 1
        self.best = min(value, self.best)
        return self.since == 0

    @property
    def ends(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.patience <= self.since

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        return {"best": self.best, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.best, self.since = state["best"], state["since"]
