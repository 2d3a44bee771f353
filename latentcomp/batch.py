"""What a learner is given: a batch of data."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch of B examples.

    Attributes:
        x: ``(B, C, H, W)`` images; the codes once more, where only they are known.
        c: the condition of each example, for a prior p(z|c); ``(B, ...)`` or None.
        z: ``(B, N)`` precomputed codes, or None; within a step, the ``(S, B, N)`` codes of its E-step.
        index: ``(B,)`` long, the position of each example in its set: it keys the noise, replay and memories.
    """

    x: Tensor
    c: Tensor | None = None
    z: Tensor | None = None
    index: Tensor | None = None  # type: ignore[assignment]  # the field hides tuple.index, which nobody asks a batch for

    @property
    def size(self) -> int:
        """B, the number of examples."""
        return len(self.x)

    @property
    def positions(self) -> Tensor:
        """``index``; where the batch came without one, the rows of the batch stand for it."""
        return torch.arange(self.size, device=self.x.device) if self.index is None else self.index

    def split(self, parts: int) -> "list[Batch]":
        """At most ``parts`` consecutive micro-batches of nearly equal size, which together are this batch; each keeps its ``positions``."""
        sizes = [len(piece) for piece in self.x.tensor_split(parts) if len(piece)]
        fields = [field.split(sizes) if isinstance(field, Tensor) else [None] * len(sizes) for field in self._replace(index=self.positions)]
        return [Batch(*pieces) for pieces in zip(*fields, strict=True)]
