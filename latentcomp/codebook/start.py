"""Where the vectors of a codebook begin: a random draw, or the k-means of the first encoder outputs."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codebook.lookup import nearest_code
from latentcomp.codebook.space import Space
from latentcomp.described import Described


class Start(Described, ABC):
    """A random draw of the vectors."""

    @abstractmethod
    def draw(self, codes: int, width: int) -> Float[Tensor, "K D"]:
        """The vectors before any data."""


class FromOutputs(Start):
    """A start that the first encoder outputs decide; until they are there, a draw stands in for it."""

    @abstractmethod
    def centres(self, points: Float[Tensor, "M D"], codes: int, space: Space) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
        """The vectors once there are encoder outputs, which come in random order; and how many of them belong to each."""


class Gaussian(Start):
    """Standard normal vectors."""

    def draw(self, codes: int, width: int) -> Float[Tensor, "K D"]:
        """The vectors."""
        return torch.randn(codes, width)


class SmallUniform(Start):
    """Uniform in [-1/K, 1/K], as the published code of VQ-VAE and VQGAN begins: with many codes all of them start at nearly the same point."""

    def draw(self, codes: int, width: int) -> Float[Tensor, "K D"]:
        """The vectors."""
        return torch.empty(codes, width).uniform_(-1 / codes, 1 / codes)


class KMeans(FromOutputs):
    """Lloyd's algorithm on the encoder outputs of the first step, from as many of them as there are codes.

    Fewer outputs than codes leave the rest of the codes as doubles, which nothing will ever be assigned to until a restart moves them.

    Args:
        iterations: of assigning outputs and averaging them.
    """

    def __init__(self, iterations: int = 10) -> None:
        if iterations < 0:
            raise ValueError(f"k-means makes 0 or more iterations, got {iterations}")
        self.iterations = iterations

    def draw(self, codes: int, width: int) -> Float[Tensor, "K D"]:
        """Standard normal vectors."""
        return torch.randn(codes, width)

    def centres(self, points: Float[Tensor, "M D"], codes: int, space: Space) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
        """The means; a centre that loses all its points stays where it is."""
        means = points[torch.arange(codes, device=points.device) % len(points)]
        for _ in range(self.iterations):
            z = nearest_code(points, means)
            counts, sums = occupancy(z, codes, points.dtype), totals(points, z, codes)
            means = torch.where(counts.unsqueeze(-1) > 0, space(sums / counts.clamp_min(1).unsqueeze(-1)), means)
        return means, occupancy(nearest_code(points, means), codes, points.dtype)


def occupancy(z: Int[Tensor, " M"], codes: int, dtype: torch.dtype) -> Float[Tensor, " K"]:
    """How often each code was chosen; no table of M K ones and zeros, and no wait for the largest code, as bincount has it."""
    return torch.zeros(codes, dtype=dtype, device=z.device).index_add_(0, z, torch.ones(len(z), dtype=dtype, device=z.device))


def totals(points: Float[Tensor, "M D"], z: Int[Tensor, " M"], codes: int) -> Float[Tensor, "K D"]:
    """The sum of the points of each code."""
    return points.new_zeros(codes, points.shape[-1]).index_add_(0, z, points)
