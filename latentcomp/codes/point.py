"""A point mass: all probability on one sequence for each x, as vector quantisation has it."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from latentcomp.codes.distribution import CodeDistribution, checked_exploration
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.noise import Noise


class PointCodes(CodeDistribution):
    """The distribution that is certain of ``z``.

    Args:
        z: ``(B, N)`` codes.
        cardinalities: K_i of each site.
        h: ``(B, V, D)`` what the encoder gave and ``z`` was read from, for learners that pass a gradient straight through; V is N, or N / Q where Q codes
            describe each vector.
    """

    def __init__(self, z: Int[Tensor, "B N"], cardinalities: Sequence[int], h: Float[Tensor, "B V D"] | None = None) -> None:
        self._z = z
        self.h = h
        super().__init__(z.shape[:-1], cardinalities)

    @property
    def _device(self) -> torch.device:
        return self._z.device

    @property
    def _dtype(self) -> torch.dtype:
        return torch.get_default_dtype() if self.h is None else torch.promote_types(self.h.dtype, torch.float32)

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        return self._z.expand(*leading, *self._z.shape)

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """0 where a code is the one, -inf elsewhere."""
        return torch.zeros(z.shape, dtype=self._dtype, device=z.device).masked_fill(z != self._z, -math.inf)

    @property
    def mode(self) -> Int[Tensor, "B N"]:
        """The codes themselves."""
        return self._z

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> FactorisedCodes:
        """Each code is kept, or with probability epsilon drawn uniformly; a point mass is the same at every temperature."""
        checked_exploration(epsilon, temperature)
        uniform = 1 / torch.tensor(self.cardinalities, dtype=self._dtype, device=self._device).unsqueeze(-1)
        return FactorisedCodes(((1 - epsilon) * self._logits().exp() + epsilon * uniform).log(), self.cardinalities)

    def table(self) -> Float[Tensor, "B M"]:
        """0 for the one sequence, -inf for the others."""
        return FactorisedCodes(self._logits(), self.cardinalities).table()

    def _logits(self) -> Float[Tensor, "B N K"]:
        return one_hot(self._z, max(self.cardinalities)).to(self._dtype).log()
