"""A mixture with shared and own assignments: a group has a kind, each of its four points a component, and the kind says where the components lie.

Given the kind the points are independent, but the kind is not known: whoever moves one point's belief about it moves those of the others.
"""

import pyro
import torch
from pyro.distributions import Categorical, Normal
from torch import Tensor

POINTS, KINDS, COMPONENTS = 4, 3, 3
MEANS = torch.tensor([[-2.0, 0.0, 2.0], [-1.0, 1.0, 3.0], [-3.0, -1.0, 1.0]])
WEIGHTS = torch.tensor([0.4, 0.4, 0.2])


def program(x: Tensor) -> None:
    """Kinds ``(B, 1)`` and components ``(B, 4)`` behind points ``(B, 4)``."""
    with pyro.plate("groups", len(x), dim=-2):
        kind = pyro.sample("kind", Categorical(torch.ones(KINDS) / KINDS), infer={"enumerate": "parallel"})
        with pyro.plate("points", POINTS, dim=-1):
            component = pyro.sample("component", Categorical(WEIGHTS), infer={"enumerate": "parallel"})
            pyro.sample("x", Normal(MEANS[kind, component], 0.7), obs=x)


def data(n: int, seed: int) -> Tensor:
    """Points ``(n, 4)`` drawn from the program."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(KINDS, (n, 1), generator=generator)
    component = torch.multinomial(WEIGHTS, n * POINTS, True, generator=generator).view(n, POINTS)
    return MEANS[kind, component] + 0.7 * torch.randn(n, POINTS, generator=generator)
