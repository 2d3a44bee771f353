"""R mixtures side by side: p(x, z) with z = (i, j), in as many copies as runs are advanced together.

Rows of x are run-major: the first B belong to run 0, the next B to run 1. A row's run is known from its place, so the library's E-steps, M-steps and
enumerations work on R runs as on one. Nothing but the rows' order ties a run to its mixture: batches must not be split into micro-batches.
"""

import math
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from experiments.mixture.data import CLUSTERS, SCALE, offsets
from latentcomp.codebook.codebook import Codebook
from latentcomp.likelihoods import Gaussian, PixelDistribution
from latentcomp.model import LatentVariableModel
from latentcomp.priors import Uniform


class RunwisePoints(PixelDistribution):
    """Normal points around mu_i + o_j, where mu is that of the row's run.

    Args:
        e: ``(*S, B, 2, K)`` one-hot codes of cluster and petal.
        means: ``(R, K, 2)``, mu of each run.
        petals: ``(K, 2)``, o.
        scale: s.
    """

    def __init__(self, e: Float[Tensor, "*SB N K"], means: Float[Tensor, "R K 2"], petals: Float[Tensor, "K 2"], scale: float) -> None:
        self.e, self.means, self.petals, self.scale = e, means, petals, scale
        super().__init__(torch.Size([*e.shape[:-2], 1, 1, 2]))

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """mu_i + o_j of each row; the rows are run-major."""
        runs, rows = len(self.means), self.e.shape[-3]
        if rows % runs:
            raise ValueError(f"{rows} rows are not the rows of {runs} runs, equally many of each: give every run the same number of points")
        clusters = self.e[..., 0, :].unflatten(-2, (runs, -1)) @ self.means
        return (clusters.flatten(-3, -2) + self.e[..., 1, :] @ self.petals).unsqueeze(-2).unsqueeze(-2)

    def log_prob_pixels(self, x: Float[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """The log-density of each coordinate, its normaliser included."""
        return -(x - self.mean).square() / (2 * self.scale**2) - math.log(self.scale) - math.log(2 * math.pi) / 2

    def cross_log_prob(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """log p(x_b|z_m) of all rows of x, each under its own run's mixture, and the M codes of this distribution."""
        means = self.e[:, 0] @ self.means + self.e[:, 1] @ self.petals  # (R, M, 2)
        x = x.flatten(1).unflatten(0, (len(means), -1)).to(means.dtype)
        square = (x[..., None, 0] - means[:, None, :, 0]).square() + (x[..., None, 1] - means[:, None, :, 1]).square()
        return (-square / (2 * self.scale**2) - 2 * math.log(self.scale) - math.log(2 * math.pi)).flatten(0, 1)

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Float[Tensor, "*B C H W"]:
        """The normal quantile."""
        return self.mean + self.scale * torch.special.ndtri(u)


class Petals(nn.Module):
    """What the decoder knows: mu ``(R, K, 2)``, learned, and o ``(K, 2)``, fixed."""

    petals: Tensor

    def __init__(self, means: Float[Tensor, "R K 2"]) -> None:
        super().__init__()
        self.means = nn.Parameter(means.clone())
        self.register_buffer("petals", offsets().to(means))


class Mixtures(LatentVariableModel):
    """p(x, z) = 1/16 N(x; mu_i + o_j, s^2 I) in R copies.

    Args:
        means: ``(R, K, 2)`` initial mu of each run.
        scale: s.
    """

    decoder: Petals

    def __init__(self, means: Float[Tensor, "R K 2"], scale: float = SCALE) -> None:
        codebook = Codebook(CLUSTERS, CLUSTERS)  # an embedding says which code it is, and no more
        codebook.weight.data.copy_(torch.eye(CLUSTERS))
        super().__init__(Uniform(2, CLUSTERS), codebook.to(means).requires_grad_(False), Petals(means), Gaussian(scale).requires_grad_(False))
        self.scale = scale

    @property
    def means(self) -> Float[Tensor, "R K 2"]:
        """mu of each run."""
        return self.decoder.means

    @property
    def runs(self) -> int:
        """R."""
        return len(self.means)

    @cached_property
    def image_shape(self) -> torch.Size:
        """A point is an image of one row and two columns."""
        return torch.Size([1, 1, 2])

    def decode(self, e: Float[Tensor, "*SB N D"]) -> RunwisePoints:
        """p(x|z) of the row's run."""
        self.decoder_evaluations += math.prod(e.shape[:-2])
        return RunwisePoints(e, self.means, self.decoder.petals, self.scale)

    def by_run(self, rows: Tensor) -> Tensor:
        """``(R B, ...)`` rows as ``(R, B, ...)``."""
        return rearrange(rows, "(r b) ... -> r b ...", r=self.runs)
