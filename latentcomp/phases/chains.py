"""Persistent Markov chains: for each datum some chains on p(z|x), moved on whenever the datum comes by.

Theta changes little between two visits, so a chain that has arrived need not arrive again: a few steps a visit keep it there (Younes, 1999; Tieleman,
2008, for the same idea on the model's side). The chains begin at samples of q.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.model import LatentVariableModel
from latentcomp.moves import Kernel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Behaviour, OnPolicy
from latentcomp.phases.replay import check_codes, check_positions


class Chains(Behaviour):
    """The states of S chains for each datum, after some more steps of a kernel. They have no density; in the long run they follow p(z|x).

    Args:
        kernel: one of ``moves`` that leaves p(z|x) invariant.
        size: n, the number of data in the set.
        sites: N.
        samples: S, how many chains for each datum.
        steps: how many steps a visit.
    """

    on_policy = False
    of_posterior = True
    states: Tensor

    def __init__(self, kernel: Kernel, size: int, sites: int, samples: int = 1, steps: int = 1) -> None:
        super().__init__(samples)
        if min(size, sites) < 1:
            raise ValueError(f"chains need at least one datum and one site, got size={size}, sites={sites}")
        self.kernel, self.steps, self.start = kernel, steps, OnPolicy(samples)
        self.register_buffer("states", torch.full((size, samples, sites), -1, dtype=torch.int16))  # -1 marks a chain that has not begun

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], None]:
        """Where the chains are after this visit."""
        check_codes(model, self.states, type(self).__name__)
        check_positions(batch.positions, len(self.states), type(self).__name__)
        states, start = self.states[batch.positions].long().movedim(0, 1), self.start(model, q, batch, noise)[0]
        return self.kernel(model, q, batch, torch.where(states < 0, start, states), noise, self.steps), None

    def statistics(self, batch: Batch, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        """The chains' own codes."""
        return {"positions": batch.positions, "states": z[: self.samples].movedim(0, 1)}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """The chains have moved."""
        if "states" in statistics:
            self.states[statistics["positions"]] = statistics["states"].to(self.states.dtype)
