"""All samples of S codes out of M, without their order: no estimator here depends on it, so M^S tuples become binomial(M + S - 1, S) multisets."""

import functools
import itertools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


@functools.cache
def multisets(codes: int, samples: int) -> tuple[Int[Tensor, "S T"], Float[Tensor, " T"]]:
    """The multisets, and the log of how many tuples each stands for: S! / prod_m n_m!."""
    z = torch.tensor(list(itertools.combinations_with_replacement(range(codes), samples))).T
    counts = torch.stack([(z == code).sum(0) for code in range(codes)])
    return z, math.lgamma(samples + 1) - (counts + 1.0).double().lgamma().sum(0)
