"""Markov kernels on codes: z -> z' for each datum, such that p(z|x) stays what it is.

If z ~ p(z|x) then z' ~ p(z|x): sum_z p(z|x) T(z'|z) = p(z'|x). A kernel has no density to weigh samples by; it improves codes that something else found,
whatever found them. No gradient passes.

- ``Gibbs``: one site, drawn anew from its exact conditional p(z_i | z_-i, x), which K decodings give (Geman and Geman, 1984).
- ``LocalSearch``: the sequence is cut, q draws the rest anew, and Metropolis and Hastings decide (Zhang et al., 2022, "back and forth"; Kim et al., 2024).

The decoder is the cost: K images a Gibbs step, one image a step of local search (and one for the start), for each sample of each datum.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution, checked_exploration, inverse_cdf
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise


class Kernel(nn.Module, ABC):
    """A rule that moves codes.

    Args:
        chunk: how many images are decoded at once: a bound on memory, not on what is drawn.
    """

    def __init__(self, chunk: int = 2048) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"a kernel decodes at least one image at a time, got chunk={chunk}")
        self.chunk = chunk

    @torch.no_grad()
    def forward(
        self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, z: Int[Tensor, "*S B N"], noise: Noise, steps: int = 1
    ) -> Int[Tensor, "*S B N"]:
        """The codes ``(*S, B, N)`` after a number of steps; q is the posterior of the batch, for kernels that propose from it."""
        log_joint = None
        for _ in range(steps):
            z, log_joint = self.step(model, q, batch, z, noise, log_joint)
        return z

    @abstractmethod
    def step(
        self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, z: Int[Tensor, "*S B N"], noise: Noise, log_joint: Tensor | None
    ) -> tuple[Int[Tensor, "*S B N"], Float[Tensor, "*S B"]]:
        """One step: new codes and their log p(x, z); ``log_joint`` is that of the old ones, where a step before has computed it."""

    def log_joint(self, model: LatentVariableModel, batch: Batch, z: Int[Tensor, "*S B N"]) -> Float[Tensor, "*S B"]:
        """log p(x, z), as many codes at a time as ``chunk`` allows."""
        pieces = z.reshape(-1, *z.shape[-2:]).split(max(1, self.chunk // z.shape[-2]))
        return torch.cat([model.log_joint(batch.x, piece, batch.c) for piece in pieces]).view(z.shape[:-1])


class Gibbs(Kernel):
    """One site of each sequence, chosen at random, drawn from p(z_i | z_-i, x). Reversible."""

    def step(
        self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, z: Int[Tensor, "*S B N"], noise: Noise, log_joint: Tensor | None
    ) -> tuple[Int[Tensor, "*S B N"], Float[Tensor, "*S B"]]:
        """One site of each row."""
        site = (noise.uniform(z.shape[:-2], (), torch.float64) * z.shape[-1]).long()
        return self.redrawn(model, batch, z, site, noise)

    def redrawn(
        self, model: LatentVariableModel, batch: Batch, z: Int[Tensor, "*S B N"], site: Int[Tensor, "*S B"], noise: Noise
    ) -> tuple[Int[Tensor, "*S B N"], Float[Tensor, "*S B"]]:
        """The given sites drawn from their exact conditionals: all K candidates are scored, and log p(z_i | z_-i, x) is their log-softmax."""
        sizes = torch.tensor(model.cardinalities, device=z.device)
        k = torch.arange(max(model.cardinalities), device=z.device).view(-1, *(1 for _ in site.shape))
        at_site = torch.arange(z.shape[-1], device=z.device) == site.unsqueeze(-1)
        exists = k < sizes[site]
        candidates = torch.where(at_site, torch.where(exists, k, 0).unsqueeze(-1), z)
        log_joint = self.log_joint(model, batch, candidates).masked_fill(~exists, -torch.inf).movedim(0, -1)
        log_p = (log_joint if log_joint.dtype == torch.float64 else log_joint.float()).log_softmax(-1)
        new = inverse_cdf(log_p, noise.uniform(z.shape[:-2], (), log_p.dtype))
        return torch.where(at_site, new.unsqueeze(-1), z), log_joint.gather(-1, new.unsqueeze(-1)).squeeze(-1)


class GibbsSweep(Gibbs):
    """All sites, one after the other, each given the newest of the others: N K decodings a step. It leaves p(z|x) as it is, without being reversible."""

    def step(
        self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, z: Int[Tensor, "*S B N"], noise: Noise, log_joint: Tensor | None
    ) -> tuple[Int[Tensor, "*S B N"], Float[Tensor, "*S B"]]:
        """Every site of every row."""
        scores = torch.empty(())
        for site in range(z.shape[-1]):
            z, scores = self.redrawn(model, batch, z, torch.full_like(z[..., 0], site), noise)
        return z, scores


class LocalSearch(Kernel):
    """Keep the codes before a random cut, draw the rest from q, and accept with probability min(1, p(x, z') q(z|x) / (p(x, z) q(z'|x))).

    The cut is uniform and stays where it is on the way back, and z and z' agree before it, so the proposals' ratio is that of the whole q(z|x): the terms
    of the common prefix cancel. Reversible. A cut at 0 is an independent proposal.

    Args:
        epsilon: the share of the uniform distribution in each conditional of the proposal.
        temperature: of each conditional of the proposal.
        chunk: how many images are decoded at once.
    """

    def __init__(self, epsilon: float = 0.0, temperature: float = 1.0, chunk: int = 2048) -> None:
        super().__init__(chunk)
        checked_exploration(epsilon, temperature)
        self.epsilon, self.temperature = epsilon, temperature

    def step(
        self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, z: Int[Tensor, "*S B N"], noise: Noise, log_joint: Tensor | None
    ) -> tuple[Int[Tensor, "*S B N"], Float[Tensor, "*S B"]]:
        """One proposal for each row."""
        policy = q.explore(self.epsilon, self.temperature)
        u = noise.uniform(z.shape[:-2], (2,), torch.float64)
        proposed, log_b = policy.redraw(z, (u[..., 0] * z.shape[-1]).long(), noise)
        if log_joint is None:
            log_joint = self.log_joint(model, batch, z)
        log_joint_proposed = self.log_joint(model, batch, proposed)
        accept = self.accepts(log_joint_proposed - log_joint, policy.log_prob(z) - log_b, u[..., 1].log())
        return torch.where(accept.unsqueeze(-1), proposed, z), torch.where(accept, log_joint_proposed, log_joint)

    def accepts(self, gain: Float[Tensor, "*S B"], log_ratio: Float[Tensor, "*S B"], log_u: Float[Tensor, "*S B"]) -> Bool[Tensor, "*S B"]:
        """Whether to go from z to z': log u < log p(x, z') - log p(x, z) + log q(z|x) - log q(z'|x)."""
        return log_u < gain + log_ratio


class GreedyLocalSearch(LocalSearch):
    """Accepts what raises p(x, z), and nothing else: a search for the best code. It does not leave p(z|x) invariant."""

    def accepts(self, gain: Float[Tensor, "*S B"], log_ratio: Float[Tensor, "*S B"], log_u: Float[Tensor, "*S B"]) -> Bool[Tensor, "*S B"]:
        """Whether p(x, z') > p(x, z)."""
        return gain > 0
