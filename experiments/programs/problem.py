"""One program with its data: what is learned from, what is judged on, and the exact posterior of the latter."""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from experiments.programs import asia, autoencoder, factorial, hidden_markov, mixture
from latentcomp.noise import permutation
from latentcomp.pyro import ExactPosterior, exact_posterior

PROGRAMS: dict[str, ModuleType] = {"markov": hidden_markov, "asia": asia, "mixture": mixture, "factorial": factorial, "autoencoder": autoencoder}


class Problem(NamedTuple):
    """A program at its data.

    Attributes:
        program: the Pyro model.
        train: what guides learn from.
        test: what they are judged on.
        exact: the exact posterior of the test data.
    """

    program: Callable[[Tensor], None]
    train: Tensor
    test: Tensor
    exact: ExactPosterior

    def rows(self, step: int, size: int, seed: int) -> Int[Tensor, " B"]:
        """Which training data belong to a step, in an order that is a function of (seed, epoch)."""
        steps = max(1, len(self.train) // size)
        order = permutation(len(self.train), seed, step // steps)
        return order[(step % steps) * size : (step % steps + 1) * size]


def problem(name: str, train: int, test: int) -> Problem:
    """The named program with so many data.

    Raises:
        KeyError: there is no such program.
    """
    module = PROGRAMS[name]
    x = module.data(test, 1)
    return Problem(module.program, module.data(train, 0), x, exact_posterior(module.program, x))
