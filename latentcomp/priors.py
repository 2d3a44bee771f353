"""p(z) and p(z|c): the distribution of code sequences before an image is seen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.factorised import FactorisedCodes, uniform_codes
from latentcomp.described import Described
from latentcomp.nn.sequence import SequenceNetwork


class Prior(Described, nn.Module, ABC):
    """A map from a condition to a distribution over codes.

    Args:
        cardinalities: K_i of each of the N sites.
    """

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        if not cardinalities or min(cardinalities) < 1:
            raise ValueError(f"a prior needs at least one site, and each site at least one code; got cardinalities {tuple(cardinalities)}")
        self.cardinalities = tuple(cardinalities)

    @abstractmethod
    def forward(self, c: Tensor | None = None) -> CodeDistribution:
        """p(z) with batch shape ``()``, or p(z|c) with batch shape ``(B,)``."""


class Uniform(Prior):
    """Every sequence is equally probable: log p(z) = -sum_i log K_i.

    Args:
        sites: N.
        codes: K, at every site; or a sequence of K_i.
    """

    _anchor: Tensor

    def __init__(self, sites: int, codes: int | Sequence[int]) -> None:
        super().__init__((codes,) * sites if isinstance(codes, int) else codes)
        if len(self.cardinalities) != sites:
            raise ValueError(f"{sites} sites need {sites} cardinalities, got {self.cardinalities}")
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)  # knows the device

    def forward(self, c: Tensor | None = None) -> FactorisedCodes:
        """p(z); a condition changes nothing."""
        return uniform_codes(self.cardinalities, self._anchor)


class Autoregressive(Prior):
    """p(z|c) = prod_i p(z_i | z_<i, c) through a sequence network, such as a causal transformer.

    Args:
        network: the sequence network.
        condition: maps c to the network's context ``(B, H)``; None for an unconditional prior.
    """

    def __init__(self, network: SequenceNetwork, condition: nn.Module | None = None) -> None:
        super().__init__(network.cardinalities)
        self.network, self.condition = network, condition

    def forward(self, c: Tensor | None = None) -> AutoregressiveCodes:
        """p(z|c)."""
        if c is None or self.condition is None:
            return AutoregressiveCodes(self.network)
        return AutoregressiveCodes(self.network, self.condition(c))
