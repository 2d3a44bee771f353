"""Weight averaging: the exponential moving average of the parameters over training, which is evaluated in their place (Polyak and Juditsky, 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """A running mean of the parameters of some modules.

    Args:
        decay: of the mean, in [0, 1); with 0 it is the parameters themselves.
        modules: whose parameters.
    """

    def __init__(self, decay: float, *modules: nn.Module) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a weight average lies in [0, 1), got {decay}")
        self.parameters = [parameter for module in modules for parameter in module.parameters()] if decay else []
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self._blend = get_ema_multi_avg_fn(decay)

    def state_dict(self) -> dict[str, Any]:
        """The mean."""
        return {"average": list(self.average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        for mean, saved in zip(self.average, state["average"], strict=True):
            mean.copy_(saved)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the mean towards the parameters."""
        if self.parameters:
            self._blend(self.average, self.parameters, 1)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the modules hold the mean."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, mean in zip(self.parameters, self.average, strict=True):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)
