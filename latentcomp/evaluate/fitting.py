"""What is fitted after training, by the same procedure for every learner: the second-stage prior, and the proposal of importance sampling.

A VQ model as everyone trains it has two stages: codes first, then an autoregressive prior on the codes of the training images. A fair comparison gives
every learner that second stage. And where log p(x) must be estimated, it gives every model a proposal of the same architecture and budget, so that no
learner is judged by how well its own posterior happens to cover.
"""

import copy

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp.data.split import Split
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.schedule import OnlyE
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior
from latentcomp.train import fit


def with_prior(model: LatentVariableModel, prior: Prior) -> LatentVariableModel:
    """The same codebook, decoder and likelihood under another prior; parameters are shared, not copied."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.prior = prior
    return other


def fit_prior(
    model: LatentVariableModel, posterior: Posterior, data: Split, prior: Prior, updates: int = 300, size: int = 128, rate: float = 1e-3, seed: int = 0
) -> LatentVariableModel:
    """The second stage: ``prior`` learns -log p(z) of the codes that the frozen posterior gives (at most 20,000) training images, eight draws of each.

    Of the priors passed on the way, the first included, the one with the best loss on codes of (at most 256) validation images is kept.

    Returns:
        The model under the fitted prior; the given model is left as it was.
    """
    codes, held_out = (_codes(model, posterior, x, seed + part) for part, x in enumerate((data.train[:20_000], data.validation[:256])))
    optimizer = torch.optim.Adam(prior.parameters(), rate, fused=True)
    best, kept = float("inf"), prior.state_dict()
    for update in range(updates + 1):
        if update % max(10, updates // 30) == 0 or update == updates:
            with torch.no_grad():
                loss = float(-prior().log_prob(held_out).mean())
            if loss < best:
                best, kept = loss, copy.deepcopy(prior.state_dict())
        rows = Noise(seed, update, torch.arange(size, device=codes.device)).uniform((), ()) * len(codes)
        z = codes[rows.long()]
        optimizer.zero_grad(set_to_none=True)
        (-prior().log_prob(z).mean()).backward()
        optimizer.step()
    prior.load_state_dict(kept)
    return with_prior(model, prior)


@torch.no_grad()
def _codes(model: LatentVariableModel, posterior: Posterior, x: Tensor, seed: int, chunk: int = 1024) -> Int[Tensor, "n N"]:
    """Eight draws of the codes of each image."""
    rows = torch.arange(len(x), device=x.device).split(chunk)
    return torch.cat([posterior(model, x[row]).sample((8,), Noise(seed, 0, row)).flatten(0, 1) for row in rows])


def fit_proposal(
    model: LatentVariableModel, posterior: Posterior, data: Split, updates: int = 1000, size: int = 128, rate: float = 1e-3, seed: int = 0
) -> Posterior:
    """A proposal for the frozen model: ``posterior`` learns by E-steps (log-variance, four samples) and sleep phases alone.

    Returns:
        The posterior, fitted; theta is bit-identical afterwards.
    """
    learner = GFlowNetEM(posterior, behaviour=OnPolicy(4), schedule=OnlyE(), sleep=Sleep() if model.likelihood.normalised else None)
    learner.seed = seed
    frozen = copy.deepcopy(model).requires_grad_(False)
    frozen.codebook.averages = False  # nor do its running means move
    for _ in fit(frozen, learner, data.batches(size, updates, seed), torch.optim.Adam(learner.parameters(), rate, fused=True)):
        pass
    return posterior
