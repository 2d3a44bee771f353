"""Classifier-free guidance (Ho and Salimans, 2022) as a network around a network: logits without the condition, moved along what the condition adds.

    l = l_none + s (l_c - l_none)

s = 1 is the network itself, s = 0 the one without a condition; s > 1 makes codes more typical of their condition and less varied. The network inside must
have learned to do without (``TeacherForced(drop=0.1)``). Both halves share one batch of twice the rows.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.nn.sequence import Cache, SequenceNetwork


@dataclass
class GuidedCache(Cache):
    """The inner network's cache: so many rows with their condition, then the same rows without."""

    inner: Cache

    rows: int

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all, in both halves."""
        self.inner.select(torch.cat([rows, rows + self.rows]))
        self.rows = len(rows)


class Guided(SequenceNetwork[GuidedCache]):
    """A network with guidance.

    Args:
        network: learned with and without conditions.
        scale: s, at least 0.

    Raises:
        ValueError: it is negative, or no finite number.
    """

    def __init__(self, network: SequenceNetwork, scale: float) -> None:
        super().__init__(network.cardinalities, None)
        if not 0 <= scale < math.inf:
            raise ValueError(f"the scale of guidance is 0 (no condition), 1 (the plain condition) or more, a finite number; got {scale}")
        self.network, self.scale = network, scale

    @property
    def order(self) -> Int[Tensor, " N"] | None:
        """That of the network inside."""
        return self.network.order

    def check_condition(self, context: Tensor) -> None:
        """As the network inside does."""
        self.network.check_condition(context)

    def _both(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError("guidance moves towards a condition: pass one, or use the network inside")
        return torch.cat([context, self.network.null(context)])

    def _mixed(self, logits: Tensor, dim: int = 0) -> Tensor:
        conditional, without = logits.chunk(2, dim)
        return torch.lerp(without, conditional, self.scale)

    def forward(self, z: Int[Tensor, "*rows N"], context: Tensor | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass of both halves."""
        both = self._both(context)
        doubled = torch.cat([z.expand(*z.shape[:-2], len(both) // 2, -1)] * 2, -2)
        return self._mixed(self.network(doubled, both), -3)

    def features(self, z: Int[Tensor, "*rows N"], context: Tensor | None = None) -> Float[Tensor, "*rows N1 F"]:
        """Refused: guided logits are no features.

        Raises:
            TypeError: always.
        """
        raise TypeError("guided networks are for showing samples: take the features of the network inside")

    def _contexts(self, rows: int, context: Tensor | None) -> Tensor:
        both = self._both(context)
        half = len(both) // 2
        return torch.cat([both[:half].repeat(rows // half, 1), both[half:].repeat(rows // half, 1)])

    def start(self, rows: int, context: Tensor | None = None) -> GuidedCache:
        """Both halves."""
        return GuidedCache(self.network.start(2 * rows, self._contexts(rows, context)), rows)

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> GuidedCache:
        """Both halves, the codes read at once."""
        return GuidedCache(self.network.resume(2 * rows, self._contexts(rows, context), given.repeat(2, 1)), rows)

    def advance(self, cache: GuidedCache, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The code joins both halves."""
        return self._mixed(self.network.advance(cache.inner, site, None if z is None else z.repeat(2)))
