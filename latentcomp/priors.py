"""p(z) and p(z|c): the distribution of code sequences before an image is seen."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.factorised import FactorisedCodes, uniform_codes
from latentcomp.codes.masked import Decoding, MaskedCodes
from latentcomp.codes.ordered import OrderedCodes
from latentcomp.described import Described
from latentcomp.nn.grid import Ordered
from latentcomp.nn.masked import MaskedTransformer
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
        """p(z) with batch shape ``()``, or p(z|c) with batch shape ``(B,)``.

        Raises:
            ValueError: the prior was made with a condition, and none is given.
        """


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
        return AutoregressiveCodes(self.network, context_of(self, c))


class InOrder(Prior):
    """Another prior, which writes the grid in an order of its own: its sequence's position i holds the site ``order[i]``.

    Args:
        prior: over sequences in that order.
        order: ``(N,)`` long, a permutation such as those of :mod:`latentcomp.nn.orders`.

    Raises:
        ValueError: the order is no permutation, one of another number of sites, or another than the one that the network inside was built for.
    """

    def __init__(self, prior: Prior, order: Int[Tensor, " N"]) -> None:
        if len(order) != len(prior.cardinalities):
            raise ValueError(f"an order of {len(order)} sites for a prior over {len(prior.cardinalities)}: make it for the prior's own grid")
        own = prior.network.order if isinstance(prior, Autoregressive) else None
        if own is not None and not torch.equal(own.cpu(), order.cpu().long()):
            raise ValueError(
                f"{type(prior.network).__name__} was built to write its grid in another order than this one: build it with grid and order=this order"
            )
        ordered = Ordered(order)
        super().__init__([prior.cardinalities[i] for i in ordered.places])
        self.prior, self.order = prior, ordered

    def forward(self, c: Tensor | None = None) -> OrderedCodes:
        """p(z|c), each site in its place."""
        return OrderedCodes(self.prior(c), self.order)


class Masked(Prior):
    """p(z|c) of a network that predicts hidden codes from the others, in any order (Chang et al., 2022): drawn in few steps, scored by a bound.

    Args:
        network: the masked transformer.
        condition: maps c to the codes ``(B, M)`` that the network reads; None for an unconditional prior.
        decoding: how codes are drawn.
    """

    def __init__(self, network: MaskedTransformer, condition: nn.Module | None = None, decoding: Decoding | None = None) -> None:
        super().__init__(network.cardinalities)
        self.network, self.condition, self.decoding = network, condition, decoding

    def forward(self, c: Tensor | None = None) -> MaskedCodes:
        """p(z|c)."""
        return MaskedCodes(self.network, context_of(self, c), self.decoding)


def context_of(prior: Prior, c: Tensor | None) -> Tensor | None:
    """What a prior's network reads of c, ``(B, M)`` codes or ``(B, H)`` features; None for a prior without a condition, whatever c is.

    Raises:
        ValueError: there is a condition to read and no c, or what is read is none of the network's.
    """
    if isinstance(prior, InOrder):
        return context_of(prior.prior, c)
    if not isinstance(prior, Autoregressive | Masked) or prior.condition is None:
        return None
    if c is None:
        raise ValueError(
            "this prior has a condition, so it is asked with one: prior(c), a row of c for each sample. To leave it out, ask for that: "
            "prior(c).unconditioned(rows), rows True where it is left out"
        )
    context: Tensor = prior.condition(c)
    prior.network.check_condition(context)
    return context
