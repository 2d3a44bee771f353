"""The second stages' priors, built for the codes that first stages turn out to have."""

import math
from typing import NamedTuple, Protocol

from torch import nn

from experiments.taming.stacked import Stacked
from latentcomp.conditions import Conditioning, Tokens
from latentcomp.nn.gpt import GPT, Dropout, Size
from latentcomp.nn.orders import ORDERS
from latentcomp.nn.pixelsnail import Depth, PixelSNAIL
from latentcomp.priors import Autoregressive, InOrder, Prior


class Sites(NamedTuple):
    """What a prior writes, and what it reads before.

    Attributes:
        grid: (h, w) of the codes z.
        codes: K.
        given: M, the number of the condition's codes r; 0 for none.
        vocabulary: C, of r.
    """

    grid: tuple[int, ...]
    codes: int
    given: int = 0
    vocabulary: int = 0

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """K at each of the N sites."""
        return (self.codes,) * math.prod(self.grid)

    @property
    def condition(self) -> nn.Module | None:
        """What reads r."""
        return Conditioning(Tokens(self.vocabulary)) if self.given else None


class Build(Protocol):
    """Anything that builds a prior for sites."""

    def __call__(self, sites: Sites) -> Prior:
        """The prior."""
        ...


class Transformer(NamedTuple):
    """The paper's transformer: condition and picture in one vocabulary, the condition first.

    Attributes:
        layers: blocks.
        width: of the residual stream.
        heads: of attention.
        dropout: all three rates.
        order: in which the grid is written, by the published class's name.
    """

    layers: int
    width: int
    heads: int
    dropout: float = 0.0
    order: str = "Identity"

    def __call__(self, sites: Sites) -> Prior:
        """The prior.

        Raises:
            ValueError: there is no order of that name.
        """
        if self.order not in ORDERS:
            raise ValueError(f"{self.order!r} is no known order of sites; known: {', '.join(ORDERS)}")
        n = len(sites.cardinalities)
        size = Size(max(sites.codes, sites.vocabulary), max(sites.given, 1) + n - 1, self.width, self.layers, self.heads)
        network = GPT(sites.cardinalities, size, Dropout(*[self.dropout] * 3), start=None if sites.given else 0)
        prior = Autoregressive(network, sites.condition)
        return prior if self.order == "Identity" else InOrder(prior, ORDERS[self.order](*sites.grid))


class Snail(NamedTuple):
    """PixelSNAIL, which the paper compares with; a condition's codes are rows above the picture's.

    Attributes:
        channels: C.
        blocks: each some gated convolutions and an attention.
        gated: convolutions a block.
        kernel: rows and columns of their kernels.
        keys: the width of queries and keys.
        dropout: in the convolutions.
    """

    channels: int
    blocks: int
    gated: int = 2
    kernel: int = 3
    keys: int = 16
    dropout: float = 0.0

    def __call__(self, sites: Sites) -> Prior:
        """The prior.

        Raises:
            ValueError: the condition's codes fill no rows of the grid.
        """
        depth = Depth(self.channels, self.blocks, self.gated, self.kernel, self.keys, self.dropout)
        if not sites.given:
            return Autoregressive(PixelSNAIL(sites.cardinalities, sites.grid, depth))
        h, w = sites.grid
        if sites.given % w:
            raise ValueError(f"{sites.given} codes of a condition fill no rows of {w} above the picture's codes: PixelSNAIL reads conditions that are maps")
        vocabulary, whole = max(sites.codes, sites.vocabulary), (h + sites.given // w, w)
        return Autoregressive(Stacked(PixelSNAIL((vocabulary,) * math.prod(whole), whole, depth), sites.cardinalities), sites.condition)


def parameters(module: nn.Module) -> int:
    """How many numbers a module learns."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
