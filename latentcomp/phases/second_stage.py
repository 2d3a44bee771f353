"""What a second stage's prior descends: log p(z|c) of codes, read as they are or with noise, or a bound of it over all orders of sites."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.masked import MaskedCodes, Schedule, uniform_share
from latentcomp.noise import Noise


@runtime_checkable
class CodeObjective(Protocol):
    """Anything that scores codes under a prior, in nats, a number for each datum to ascend."""

    def __call__(self, p: CodeDistribution, z: Int[Tensor, "B N"], noise: Noise) -> Float[Tensor, " B"]:
        """The scores, with a gradient in the prior's parameters."""
        ...


class TeacherForced:
    """log p(z|c) = sum_i log p(z_i | z_<i, c) in one pass.

    Args:
        keep: the probability that a code is read as it is; else a random one is read in its place, while the true one stays what is to be predicted
            ("pkeep" in the published code).
        drop: the share of data that learn without their condition, for classifier-free guidance (Ho and Salimans, 2022).

    Raises:
        ValueError: one of them is no probability.
    """

    def __init__(self, keep: float = 1.0, drop: float = 0.0) -> None:
        for name, value in (("keep", keep), ("drop", drop)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a probability, so it must lie in [0, 1]; got {value}")
        self.keep, self.drop = keep, drop

    def __call__(self, p: CodeDistribution, z: Int[Tensor, "B N"], noise: Noise) -> Float[Tensor, " B"]:
        """log p(z|c), or with noise on what is read, the same sum of conditionals."""
        if self.drop:
            p = p.unconditioned(noise.uniform((), ()) < self.drop)
        if self.keep == 1:
            return p.log_prob(z)
        return p.conditionals(replaced(z, p, self.keep, noise)).gather(-1, z.unsqueeze(-1)).squeeze(-1).sum(-1)


class MaskedSites:
    """Sites hidden at random, predicted from the rest: E over orders of log p(z|c), one order and one position in it for each datum.

    Args:
        schedule: maps the share of a decoding that is done, drawn uniformly, to the share of sites that are hidden. Uniform shares with the weight N / hidden
            make the score an unbiased estimate of the bound (Uria et al., 2014; Hoogeboom et al., 2022); with another schedule, such as MaskGIT's cosine,
            the weights stay and more is learned where it puts more.
        drop: the share of data that learn without their condition.
    """

    def __init__(self, schedule: Schedule = uniform_share, drop: float = 0.0) -> None:
        if not 0 <= drop <= 1:
            raise ValueError(f"drop is a probability, so it must lie in [0, 1]; got {drop}")
        self.schedule, self.drop = schedule, drop

    def __call__(self, p: CodeDistribution, z: Int[Tensor, "B N"], noise: Noise) -> Float[Tensor, " B"]:
        """The bound, estimated.

        Raises:
            TypeError: the prior is not one of masked codes.
        """
        if not isinstance(p, MaskedCodes):
            raise TypeError(f"MaskedSites hides codes from a masked prior, not from {type(p).__name__}: give it TeacherForced, or the model a Masked prior")
        if self.drop:
            p = p.unconditioned(noise.uniform((), ()) < self.drop)
        return p.bound(z, noise, self.schedule)


def replaced(z: Int[Tensor, "B N"], p: CodeDistribution, keep: float, noise: Noise) -> Int[Tensor, "B N"]:
    """Each code kept with the given probability, else a uniform one of its site."""
    coin, code = noise.uniform((), (2, z.shape[1])).unbind(1)
    k = torch.tensor(p.cardinalities, device=z.device)
    return torch.where(coin < keep, z, (code * k).long())
