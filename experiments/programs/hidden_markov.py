"""A hidden Markov model: 243 paths of five states, each step of which shows a symbol that is often, not always, its own."""

import pyro
import torch
from pyro.distributions import Categorical
from torch import Tensor

STEPS, STATES, SYMBOLS = 5, 3, 5
START = torch.tensor([0.5, 0.3, 0.2])
TRANSITION = torch.tensor([[0.80, 0.15, 0.05], [0.10, 0.70, 0.20], [0.25, 0.05, 0.70]])
EMISSION = torch.tensor([[0.50, 0.30, 0.10, 0.05, 0.05], [0.10, 0.30, 0.30, 0.20, 0.10], [0.05, 0.10, 0.15, 0.30, 0.40]])


def program(x: Tensor, start: Tensor = START, transition: Tensor = TRANSITION, emission: Tensor = EMISSION) -> None:
    """Paths behind symbols ``(B, 5)``."""
    with pyro.plate("data", len(x)):
        p = start.expand(len(x), STATES)
        for t in range(STEPS):
            z = pyro.sample(f"z_{t}", Categorical(p), infer={"enumerate": "parallel"})
            pyro.sample(f"x_{t}", Categorical(emission[z]), obs=x[:, t])
            p = transition[z]


def data(n: int, seed: int) -> Tensor:
    """Symbols ``(n, 5)`` of paths drawn from the program."""
    generator = torch.Generator().manual_seed(seed)
    z, x = torch.multinomial(START, n, True, generator=generator), []
    for _ in range(STEPS):
        x.append(torch.multinomial(EMISSION[z], 1, generator=generator)[:, 0])
        z = torch.multinomial(TRANSITION[z], 1, generator=generator)[:, 0]
    return torch.stack(x, -1)
