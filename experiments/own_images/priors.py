"""Priors of the second stage, built for the codes of a first stage that is there already."""

from collections.abc import Sequence

from torch import nn

from latentcomp.nn.transformer import CausalTransformer
from latentcomp.priors import Autoregressive


def transformer(cardinalities: Sequence[int], classes: int = 0, width: int = 128, layers: int = 4, heads: int = 4) -> Autoregressive:
    """A causal transformer over the grid, row by row.

    Args:
        cardinalities: K_i of each site of the first stage.
        classes: how many classes to condition on; 0 for none.
        width: of the residual stream.
        layers: blocks.
        heads: of attention.
    """
    network = CausalTransformer(cardinalities, width if classes else 0, width, layers, heads)
    return Autoregressive(network, nn.Embedding(classes, width) if classes else None)
