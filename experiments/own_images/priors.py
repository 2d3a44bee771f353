"""Priors of the second stage, built for the codes of a first stage that is there already, and for what they are given."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from latentcomp.conditions import Conditioning, Labels, Shifted
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.orders import ORDERS, raster
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.priors import Autoregressive, InOrder, Prior


class Sites(NamedTuple):
    """What a prior writes, and what it is given.

    Attributes:
        cardinalities: K_i of each site of the first stage.
        grid: (h, w) of the sites.
        stage: turns conditions into codes r; None for no condition.
        codes: C, the vocabulary of r.
        given: M, how many codes r has.
    """

    cardinalities: Sequence[int]
    grid: tuple[int, ...]
    stage: nn.Module | None = None
    codes: int = 0
    given: int = 1


def transformer(sites: Sites, width: int = 128, layers: int = 4, heads: int = 4) -> Prior:
    """A causal transformer over the grid, row by row, whose first position reads the class.

    Args:
        sites: what it writes.
        width: of the residual stream.
        layers: blocks.
        heads: of attention.

    Raises:
        ValueError: it is given a map.
    """
    if sites.stage is not None and not isinstance(sites.stage, Labels):
        raise ValueError(
            "second=transformer reads a class or nothing, and this condition has a code for each part of the picture: give second=modern or second=gpt"
        )
    network = CausalTransformer(sites.cardinalities, width if sites.codes else 0, width, layers, heads)
    return Autoregressive(network, nn.Embedding(sites.codes, width) if sites.codes else None)


def gpt(sites: Sites, width: int = 128, layers: int = 4, heads: int = 4, order: str = "Identity") -> Prior:
    """The published transformer: condition and picture in one table, the condition's codes behind the picture's, and one code more for no condition.

    Args:
        sites: what it writes.
        width: of the residual stream.
        layers: blocks.
        heads: of attention.
        order: in which the grid is written, by the published class's name.

    Raises:
        ValueError: there is no such order, or it does not fit the grid.
    """
    k, n = max(sites.cardinalities), len(sites.cardinalities)
    size = Size(k + sites.codes + 1, sites.given + n - 1, width, layers, heads)
    network = GPT(sites.cardinalities, size, start=k + sites.codes)
    return _ordered(Autoregressive(network, None if sites.stage is None else Conditioning(Shifted(sites.stage, k))), order, sites.grid)


def modern(sites: Sites, width: int = 128, layers: int = 4, heads: int = 4, order: str = "Identity") -> Prior:
    """The transformer as they are built today; arguments as of :func:`gpt`.

    Raises:
        ValueError: as there.
    """
    network = ModernTransformer(sites.cardinalities, Width(width, layers, heads), (sites.codes, sites.given), sites.grid, _sites(order, sites.grid))
    return _ordered(Autoregressive(network, None if sites.stage is None else Conditioning(sites.stage)), order, sites.grid)


def _sites(order: str, grid: Sequence[int]) -> Tensor:
    if order not in ORDERS:
        raise ValueError(f"{order!r} is no known order of sites; known: {', '.join(ORDERS)}")
    h, w = grid
    return ORDERS[order](h, w)


def _ordered(prior: Autoregressive, order: str, grid: Sequence[int]) -> Prior:
    sites = _sites(order, grid)
    return prior if sites.equal(raster(grid[0], grid[1])) else InOrder(prior, sites)
