"""Means of the metrics of steps, kept on the device and read once."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Means:
    """The mean of each metric over the steps that had it; steps of different phases have different metrics."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def update(self, metrics: Mapping[str, Tensor]) -> None:
        """Adds a step's."""
        if not metrics:
            return
        names, values = tuple(metrics), torch.stack([value.detach().double() for value in metrics.values()])
        before = self._sums.get(names)
        self._sums[names] = values if before is None else before.to(values.device) + values
        self._counts[names] = self._counts.get(names, 0) + 1

    def values(self) -> dict[str, float]:
        """As numbers."""
        totals: dict[str, tuple[float, int]] = {}
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.tolist(), strict=True):
                before, count = totals.get(name, (0.0, 0))
                totals[name] = (before + total, count + self._counts[names])
        return {name: total / count for name, (total, count) in totals.items()}

    def clear(self) -> None:
        """Begins anew."""
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, as plain data."""
        return {"means": [[list(names), sums, self._counts[names]] for names, sums in self._sums.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self._sums = {tuple(names): sums for names, sums, _ in state["means"]}
        self._counts = {tuple(names): count for names, _, count in state["means"]}
