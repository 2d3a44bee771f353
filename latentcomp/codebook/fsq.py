"""Finite scalar quantisation (Mentzer et al., 2024, arXiv 2309.15505): each of a few dimensions is bounded and rounded to one of L_i levels.

    f(h) = tanh(h + s) (L - 1) (1 + eps) / 2 - o,   o = 1/2 for even L, else 0,   s such that f(0) = 0;   e = round(f(h)) / floor(L / 2).

The codes are the K = prod L_i points of the grid, none of them learned; with the straight-through gradient nothing but the reconstruction is needed to train
(codebook and commitment weight 0). Code numbers are those of the paper's appendix: the first dimension runs fastest.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lookup import at_least_float32

EPS = 1e-3  # of the paper's code: how far f overshoots the outermost level


class FSQ(Geometry):
    """The points of a grid with L_i levels along dimension i.

    Args:
        levels: L_1 to L_D; the paper recommends 5 and more each: (8, 6, 5) for about 2^8 codes, (8, 5, 5, 5) for 2^10, (7, 5, 5, 5, 5) for 2^12,
            (8, 8, 8, 6, 5) for 2^14, (8, 8, 8, 5, 5, 5) for 2^16.

    Raises:
        ValueError: no level, or less than three along a dimension.
    """

    levels: Tensor
    basis: Tensor
    grid: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(
                f"FSQ needs three or more levels along each dimension, got {list(levels)}: with two the bounded h hardly moves about its middle; "
                "take LFQ for signs"
            )
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]), persistent=False)
        digits = torch.arange(math.prod(levels)).unsqueeze(-1) // self.basis % self.levels
        half = self.levels // 2
        self.register_buffer("grid", (digits - half) / half, persistent=False)

    @property
    def vectors(self) -> Float[Tensor, "K D"]:
        """The points, between -1 and 1."""
        return self.grid

    def project(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """f(h) / floor(L / 2).

        Raises:
            ValueError: h has another dimension than the grid.
        """
        if h.shape[-1] != self.width:
            raise ValueError(f"the grid has D={self.width} dimensions, h has {h.shape[-1]}: build the encoder with width {self.width}")
        (h,) = at_least_float32(h)
        levels = self.levels.to(h.dtype)
        bound, offset = (levels - 1) * (1 + EPS) / 2, (1 - levels % 2) / 2
        return (torch.tanh(h + torch.atanh(offset / bound)) * bound - offset) / (self.levels // 2)

    def nearest(self, h: Float[Tensor, "*B D"], cardinalities: Sequence[int] | None = None) -> Int[Tensor, "*B"]:
        """The grid point next to f(h): each dimension rounds by itself, so no distance is computed."""
        if cardinalities is not None and min(cardinalities) < self.codes:
            return super().nearest(h, cardinalities)
        with torch.no_grad():
            half = self.levels // 2
            return (((self.project(h) * half).round().long() + half) * self.basis).sum(-1)
