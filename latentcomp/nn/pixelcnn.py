"""PixelCNN (van den Oord et al., 2016): masked convolutions over a grid of codes, each seeing those before it in raster order.

The first layer's mask hides the site itself (type A), the others' masks show it (type B). A stack of plain masked 3x3 convolutions has a blind spot: site
(r, c) never sees (r - 1, c + 2) and what lies beyond it on its right, however many layers there are. The published prior of GFlowNet-EM is such a stack; it
stands here for fidelity, and ``CausalTransformer`` has no blind spot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot

from latentcomp.described import Described
from latentcomp.nn.sequence import Cache, SequenceNetwork


@dataclass
class Grid(Cache):
    """The one-hot codes chosen so far, ``(R, K, h, w)``."""

    codes: Tensor

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all."""
        self.codes = self.codes[rows]


class MaskedConv2d(Described, nn.Conv2d):
    """A convolution that sees what comes before a site in raster order.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: the width of the kernel, odd.
        centre: whether it also sees the site itself (type B).
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, centre: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        before = torch.arange(kernel * kernel) < kernel * kernel // 2 + centre
        self.register_buffer("mask", before.view(kernel, kernel).to(self.weight.dtype), persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """The masked weights are a product, not a change of the parameter."""
        return conv2d(x, self.weight * self.mask, padding=self.padding)


class PixelCNN(SequenceNetwork[Grid]):
    """One layer of type A, ``layers`` of type B, a 1x1 convolution: 1,042,440 parameters for 4x4 sites of K = 8 at 128 channels.

    Args:
        cardinalities: K at each of the h w sites, the same everywhere.
        channels: C.
        layers: of type B.
        kernel: the width of the kernels.
        grid: (h, w).

    Raises:
        ValueError: the sites differ, or do not fill the grid.
    """

    def __init__(self, cardinalities: Sequence[int], channels: int = 128, layers: int = 7, kernel: int = 3, grid: Sequence[int] = (4, 4)) -> None:
        super().__init__(cardinalities, None)
        if len(set(self.cardinalities)) != 1 or len(self.cardinalities) != math.prod(grid):
            raise ValueError(f"a PixelCNN wants the same K at all {math.prod(grid)} sites of its {grid[0]}x{grid[1]} grid; got {self.cardinalities}")
        self.grid = tuple(grid)
        stack: list[nn.Module] = [MaskedConv2d(self.cardinalities[0], channels, kernel, centre=False), nn.ReLU()]
        for _ in range(layers):
            stack += [MaskedConv2d(channels, channels, kernel, centre=True), nn.ReLU()]
        self.layers = nn.Sequential(*stack, nn.Conv2d(channels, self.cardinalities[0], 1))

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        self._read(context)
        logits = self.layers(self._one_hot(z.reshape(-1, z.shape[-1])))
        return rearrange(logits, "r k h w -> r (h w) k").view(*z.shape, -1)

    @property
    def _weight(self) -> Tensor:
        return cast(Tensor, self.layers[0].weight)

    def _one_hot(self, z: Int[Tensor, "R N"]) -> Float[Tensor, "R K h w"]:
        codes = one_hot(z, self.cardinalities[0]).to(self._weight.dtype)
        return rearrange(codes, "r (h w) k -> r k h w", h=self.grid[0]).contiguous(memory_format=torch.channels_last)

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """Refused: no site of the grid stands for the complete sequence.

        Raises:
            TypeError: always; names a network that has them.
        """
        raise TypeError("PixelCNN has no features of the complete sequence, which a flow head reads: use PrefixMLP or CausalTransformer")

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> Grid:
        """An empty grid for each row."""
        self._read(context)
        return Grid(self._weight.new_zeros(rows, self.cardinalities[0], *self.grid))

    def advance(self, cache: Grid, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The chosen code joins the grid, whose rows down to the site's own are convolved again."""
        width = self.grid[1]
        if z is not None:
            cache.codes[torch.arange(len(z), device=z.device), z, (site - 1) // width, (site - 1) % width] = 1
        return self.layers(cache.codes[:, :, : site // width + 1])[:, :, -1, site % width]
