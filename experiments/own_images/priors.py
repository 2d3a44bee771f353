"""Priors of the second stage, built for the codes of a first stage that is there already, and for what they are given."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from latentcomp.conditions import Labels
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.priors import Autoregressive, Prior


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
        raise ValueError("second=transformer reads a class or nothing, and this condition has a code for each part of the picture: give second=modern or second=gpt")
    network = CausalTransformer(sites.cardinalities, width if sites.codes else 0, width, layers, heads)
    return Autoregressive(network, nn.Embedding(sites.codes, width) if sites.codes else None)
