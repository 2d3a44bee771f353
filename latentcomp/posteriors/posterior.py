"""What every posterior is: a module that maps (p, x) to the distribution q(z|x)."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.described import Described
from latentcomp.model import LatentVariableModel


class Posterior(Described, nn.Module, ABC):
    """A map from a model and images to q(z|x). Its own parameters are part of phi; those of the model it may use, but never owns."""

    @abstractmethod
    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> CodeDistribution:
        """q(z|x) with batch shape ``(B,)`` for images ``(B, C, H, W)``. An encoder runs once a call."""


def sites_of(h: Tensor, model: LatentVariableModel, width: int, what: str, depth: int = 1) -> Tensor:
    """The encoder's output, checked to be ``(B, N, width)``; where ``depth`` sites describe one vector, ``(B, N / depth, width)``.

    Raises:
        ValueError: it is not; the message says what an encoder must give.
    """
    wanted = (len(model.cardinalities) // depth, width)
    if h.shape[1:] != wanted:
        rows = "one row for each of the N sites" if depth == 1 else f"one row for each {depth} of the sites"
        raise ValueError(f"the encoder must give {what} of shape (B, {wanted[0]}, {wanted[1]}): {rows}; got {tuple(h.shape)}")
    return h
