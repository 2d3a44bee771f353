"""A factorial model: twelve causes that are on or off add their patterns, so 4,096 explanations compete for each observation."""

import pyro
import torch
from pyro.distributions import Bernoulli, Normal
from torch import Tensor

CAUSES, WIDTH, NOISE = 12, 6, 0.6
PATTERNS = torch.randn(CAUSES, WIDTH, generator=torch.Generator().manual_seed(0))


def program(x: Tensor) -> None:
    """Causes ``(B, 12)`` behind sums of patterns ``(B, 6)``."""
    with pyro.plate("data", len(x)):
        on = pyro.sample("on", Bernoulli(torch.full((CAUSES,), 0.3)).to_event(1))
        pyro.sample("x", Normal(on @ PATTERNS, NOISE).to_event(1), obs=x)


def data(n: int, seed: int) -> Tensor:
    """Sums ``(n, 6)`` drawn from the program."""
    generator = torch.Generator().manual_seed(seed)
    on = torch.bernoulli(torch.full((n, CAUSES), 0.3), generator=generator)
    return on @ PATTERNS + NOISE * torch.randn(n, WIDTH, generator=generator)
