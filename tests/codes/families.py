"""Every distribution over codes, by name, as a function of its context: what the shared contract is run on. All in float64, far from uniform."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.codes.point import PointCodes
from latentcomp.codes.table import TableCodes
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.site_mlp import SpreadMLP
from latentcomp.nn.transformer import CausalTransformer

Network = TypeVar("Network", bound=nn.Module)
H = 3
FAMILIES = ("factorised", "point", "table", "prefix_mlp", "transformer")
CARDINALITIES = ((2, 3, 4), (4,))


def stirred(make: Callable[[], Network], seed: int = 0) -> Network:
    """A new network in float64, with weights large enough that codes depend strongly on their prefix and on the context."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        for parameter in network.parameters():
            parameter.data.add_(0.4 * torch.randn_like(parameter))
    return network.double()


def network(family: str, cardinalities: tuple[int, ...], context: int = H) -> SequenceNetwork:
    """One of the sequence networks."""
    if family == "spread_mlp":
        return stirred(lambda: SpreadMLP(cardinalities, context, 8))
    if family == "prefix_mlp":
        return stirred(lambda: PrefixMLP(cardinalities, context, 8))
    return stirred(lambda: CausalTransformer(cardinalities, context, width=8, layers=2, heads=2))


def contexts(rows: int = 3) -> Tensor:
    """``(B, H)``."""
    return torch.randn(rows, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def build(family: str, cardinalities: tuple[int, ...], context: Tensor | None) -> CodeDistribution:
    """The distribution whose parameters are fixed functions of the context; unconditional without one (a point mass then has one row)."""
    n, k = len(cardinalities), max(cardinalities)
    read = torch.ones(H, dtype=torch.float64) if context is None else context

    def linear(width: int) -> Tensor:
        return stirred(lambda: nn.Linear(H, width))(read) * 2

    def point() -> PointCodes:
        sites = linear(n * k).unflatten(-1, (n, k)).view(-1, n, k)
        return PointCodes(torch.stack([sites[:, site, :k].argmax(-1) for site, k in enumerate(cardinalities)], -1), cardinalities)

    made: dict[str, Callable[[], CodeDistribution]] = {
        "factorised": lambda: FactorisedCodes(linear(n * k).unflatten(-1, (n, k)), cardinalities, context),
        "point": point,
        "table": lambda: TableCodes(linear(math.prod(cardinalities)), cardinalities),
    }
    if family in made:
        return made[family]()
    return AutoregressiveCodes(network(family, cardinalities, 0 if context is None else H), context)
