"""Points of a hierarchical mixture, and where runs start.

A point belongs to one of four clusters i and within it to one of four petals j: x | i, j ~ N(mu_i + o_j, s^2 I), i and j uniform, o_j on the unit circle at
45, 135, 225 and 315 degrees, s = 1/4. The true means are (+-sqrt 2, +-sqrt 2): the sixteen petals of the truth lie on a square grid. Only mu is ever learned.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from latentcomp.noise import Noise

CLUSTERS = PETALS = 4
SCALE = 0.25
POINTS, STARTS = 5, 7  # the keys of two streams of noise


def truth() -> Float[Tensor, "K 2"]:
    """The true means of the clusters."""
    return math.sqrt(2) * torch.tensor([[-1, -1], [1, 1], [1, -1], [-1, 1]], dtype=torch.float64)


def offsets() -> Float[Tensor, "K 2"]:
    """From a cluster's mean to those of its petals."""
    angle = (torch.arange(PETALS, dtype=torch.float64) + 0.5) * (2 * math.pi / PETALS)
    return torch.stack([angle.cos(), angle.sin()], -1)


def points(n: int = 4000, seed: int = 0) -> Float[Tensor, "n 1 1 2"]:
    """Draws of the true mixture, as images of one row and two columns; the first n of an endless list that the seed determines."""
    u = Noise(seed, POINTS, torch.arange(n)).uniform((), (4,), torch.float64)
    i, j = (u[:, :2] * CLUSTERS).long().unbind(-1)
    return (truth()[i] + offsets()[j] + SCALE * torch.special.ndtri(u[:, 2:])).view(n, 1, 1, 2)


def starts(x: Float[Tensor, "n 1 1 2"], seeds: Sequence[int]) -> Float[Tensor, "R K 2"]:
    """Initial means of one run for each seed: four random points of the data, with replacement as in the published notebook."""
    u = Noise(0, STARTS, torch.tensor(seeds)).uniform((), (CLUSTERS,), torch.float64)
    return x.flatten(1)[(u * len(x)).long()]


def at_truth(x: Float[Tensor, "n 1 1 2"], seeds: Sequence[int]) -> Float[Tensor, "R K 2"]:
    """The true means, whatever the seed."""
    return truth().expand(len(seeds), -1, -1)
