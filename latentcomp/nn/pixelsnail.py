"""PixelSNAIL (Chen et al., 2018): gated causal convolutions and causal attention by turns; the prior that "Taming Transformers" compares with.

A convolution sees the rows above and what lies to the left, by a shift and a kernel of ``kernel`` rows and columns that ends at the site, so that there is no
blind spot. Attention looks up all sites before, whose keys and values also hold their codes; queries and keys know where they are. The first layer's shift
hides the site itself. A context, such as an embedded label, enters every gated block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, pad, scaled_dot_product_attention

from latentcomp.described import Described
from latentcomp.nn.sequence import Cache, SequenceNetwork


@dataclass
class GridCache(Cache):
    """The codes chosen so far, ``(R, h, w)``, and the context of each row."""

    codes: Tensor
    context: Tensor | None

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all."""
        self.codes = self.codes[rows]
        self.context = None if self.context is None else self.context[rows]


@dataclass(frozen=True)
class Depth:
    """How large the network is.

    Attributes:
        channels: C, of the residual stream.
        blocks: each some gated convolutions and an attention.
        gated: gated convolutions a block.
        kernel: rows and columns of their kernels.
        keys: the width of queries and keys.
        dropout: in the gated convolutions.
    """

    channels: int = 128
    blocks: int = 4
    gated: int = 2
    kernel: int = 3
    keys: int = 16
    dropout: float = 0.0


class CausalConv2d(Described, nn.Conv2d):
    """A convolution over the rows above and the columns to the left, the site itself included.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: rows and columns.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Padded above and on the left."""
        return super().forward(pad(x, (self.kernel_size[1] - 1, 0, self.kernel_size[0] - 1, 0)))


class RowsAbove(Described, nn.Conv2d):
    """A convolution over the rows above alone, to both sides: what closes the blind spot.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: rows; and to each side, columns.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, (kernel, 2 * kernel - 1), padding=0)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Padded above, then shifted down by a row."""
        rows, columns = self.kernel_size
        return super().forward(pad(x, (columns // 2, columns // 2, rows, 0))[:, :, :-1])


class Gated(Described, nn.Module):
    """x + a sigmoid(b), (a, b) from two causal convolutions of ELUs, the second with the context.

    Args:
        depth: of the network.
        context: H, the width of the context; 0 for none.
    """

    def __init__(self, depth: Depth, context: int) -> None:
        super().__init__()
        c = depth.channels
        self.first, self.second = CausalConv2d(2 * c, c, depth.kernel), CausalConv2d(2 * c, 2 * c, depth.kernel)
        self.read = nn.Linear(context, 2 * c, bias=False) if context else None
        self.dropout = nn.Dropout(depth.dropout)

    def forward(self, x: Float[Tensor, "B C H W"], context: Float[Tensor, "B H2"] | None) -> Float[Tensor, "B C H W"]:
        """The block's output on top of its input."""
        h = self.second(self.dropout(_both_signs(self.first(_both_signs(x)))))
        if self.read is not None and context is not None:
            h = h + self.read(context)[..., None, None]
        a, b = h.chunk(2, 1)
        return x + a * b.sigmoid()


def _both_signs(x: Tensor) -> Tensor:
    return elu(torch.cat([x, -x], 1))


class Lookup(Described, nn.Module):
    """Attention from each site to all before it, whose codes it may read.

    Args:
        depth: of the network.
    """

    def __init__(self, depth: Depth) -> None:
        super().__init__()
        c, self.keys = depth.channels, depth.keys
        self.query = nn.Conv2d(c + 2, depth.keys, 1)
        self.key_value = nn.Conv2d(2 * c + 2, depth.keys + c, 1)
        self.out = nn.Conv2d(2 * c, c, 1)

    def forward(self, x: Float[Tensor, "B C H W"], codes: Float[Tensor, "B C H W"], places: Float[Tensor, "2 H W"]) -> Float[Tensor, "B C H W"]:
        """What was looked up, merged into the stream; the first site has nothing to look up."""
        where = places.expand(len(x), -1, -1, -1)
        q = rearrange(self.query(torch.cat([x, where], 1)), "b d h w -> b (h w) d")
        k, v = rearrange(self.key_value(torch.cat([x, codes, where], 1)), "b d h w -> b (h w) d").split([self.keys, x.shape[1]], -1)
        before = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=x.device).tril(-1)
        before[0, 0] = True  # a row without an entry has no softmax; what it reads is dropped below
        found = rearrange(scaled_dot_product_attention(q, k, v, before), "b (h w) d -> b d h w", h=x.shape[2])
        found = torch.where((torch.arange(q.shape[1], device=x.device) > 0).view(x.shape[2:]), found, 0.0)
        return x + self.out(elu(torch.cat([x, found], 1)))


class PixelSNAIL(SequenceNetwork[GridCache]):
    """Logits of the code of each site of a grid from those before it in raster order.

    Args:
        cardinalities: K at each of the h w sites, the same everywhere.
        grid: (h, w).
        depth: channels, blocks, kernels.
        context: H, the width of the context; 0 for none.

    Raises:
        ValueError: the sites differ, or do not fill the grid.
    """

    _places: Tensor

    def __init__(self, cardinalities: Sequence[int], grid: Sequence[int], depth: Depth | None = None, context: int = 0) -> None:
        super().__init__(cardinalities, nn.Linear(context, context) if context else None)
        if len(set(self.cardinalities)) != 1 or len(self.cardinalities) != math.prod(grid):
            raise ValueError(f"a PixelSNAIL wants the same K at all {math.prod(grid)} sites of its {grid[0]}x{grid[1]} grid; got {self.cardinalities}")
        depth = Depth() if depth is None else depth
        self.grid, c = tuple(grid), depth.channels
        self.tokens = nn.Embedding(self.cardinalities[0], c)
        self.above, self.left = RowsAbove(c, c, depth.kernel), CausalConv2d(c, c, depth.kernel)
        self.blocks = nn.ModuleList(nn.ModuleList([*(Gated(depth, context) for _ in range(depth.gated)), Lookup(depth)]) for _ in range(depth.blocks))
        self.head = nn.Conv2d(c, self.cardinalities[0], 1)
        rows, columns = torch.meshgrid(*(torch.linspace(-0.5, 0.5, side) for side in self.grid), indexing="ij")
        self.register_buffer("_places", torch.stack([rows, columns]), persistent=False)

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        read = self._read(context)
        if read is not None:
            read = read.expand(*z.shape[:-1], -1).reshape(-1, read.shape[-1])
        logits = self._logits(rearrange(z.reshape(-1, z.shape[-1]), "r (h w) -> r h w", h=self.grid[0]), read)
        return rearrange(logits, "r k h w -> r (h w) k").reshape(*z.shape, -1)

    def _logits(self, z: Int[Tensor, "R h w"], context: Tensor | None) -> Float[Tensor, "R K h w"]:
        codes = rearrange(self.tokens(z), "r h w c -> r c h w").contiguous()
        left = pad(codes, (1, 0))[..., :-1]  # the column to the left: the site itself is hidden from here on
        h = self.above(codes) + self.left(left)
        for block in self.blocks:
            *gated, lookup = cast(nn.ModuleList, block)
            for convolution in gated:
                h = convolution(h, context)
            h = lookup(h, codes, self._places[:, : z.shape[1]])
        return self.head(elu(h))

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """Refused: no site of the grid stands for the complete sequence.

        Raises:
            TypeError: always; names a network that has them.
        """
        raise TypeError("PixelSNAIL has no features of the complete sequence, which a flow head reads: use PrefixMLP or CausalTransformer")

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> GridCache:
        """An empty grid for each row."""
        read = self._read(context)
        read = None if read is None else read.repeat(rows // len(read), 1)
        return GridCache(torch.zeros(rows, *self.grid, dtype=torch.long, device=self._places.device), read)

    def advance(self, cache: GridCache, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The chosen code joins the grid, whose rows down to the site's own are computed again: there is no quicker way through the convolutions of a row."""
        width = self.grid[1]
        if z is not None:
            cache.codes[:, (site - 1) // width, (site - 1) % width] = z
        return self._logits(cache.codes[:, : site // width + 1], cache.context)[:, :, -1, site % width]

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> GridCache:
        """The given codes are written down."""
        cache = self.start(rows, context)
        cache.codes.flatten(1)[:, : given.shape[1] - 1] = given[:, :-1]
        return cache
