"""What is fitted after training, by the same procedure for every learner: the second-stage prior, and the proposal of importance sampling.

A VQ model as everyone trains it has two stages: codes first, then an autoregressive prior on the codes of the training images. A fair comparison gives
every learner that second stage. And where log p(x) must be estimated, it gives every model a proposal of the same architecture and budget, so that no
learner is judged by how well its own posterior happens to cover.
"""

import copy
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.data.batches import Batches
from latentcomp.data.split import Split
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.objectives import sleep_loss
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


class Imitation(Learner):
    """Cross-entropy to codes that are there for the taking: those of a teacher on data, and those of dreams. It decodes nothing but the dreams.

    Args:
        posterior: learns.
        teacher: draws codes of the data.
        sleep: the sleep phase, or None.
    """

    def __init__(self, posterior: Posterior, teacher: Posterior, sleep: Sleep | None) -> None:
        super().__init__(posterior)
        self.teacher, self.sleep = teacher, sleep

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One update of the posterior."""
        noise = self.noise(batch)
        with torch.no_grad():
            z = self.teacher(model, batch.x, batch.c).sample((), noise)
        loss = sleep_loss(self.posterior(model, batch.x, batch.c).log_prob(z))
        if self.sleep is not None:
            loss = loss + self.sleep(model, self.posterior, batch, noise)
        yield Loss("imitation", loss, trainable(self.posterior))


def fit_proposal(
    model: LatentVariableModel,
    posterior: Posterior,
    data: Split,
    updates: int = 1000,
    size: int = 128,
    rate: float = 1e-3,
    seed: int = 0,
    teacher: Posterior | None = None,
) -> Posterior:
    """A proposal for the frozen model: ``posterior`` learns by E-steps (log-variance, four samples) and sleep phases alone.

    Args:
        model: p(x, z).
        posterior: learns.
        data: its training images.
        updates: how many.
        size: B.
        rate: of Adam.
        seed: of the order of the data and of all noise.
        teacher: a posterior whose codes, with dreams, are imitated for the first three quarters of the updates; None for E-steps from the start. From
            scratch, on a finished model whose posterior has a few sharp modes, E-steps would search for long; whatever the teacher misses, dreams show.

    Returns:
        The posterior, fitted; theta and the teacher are bit-identical afterwards.
    """
    frozen = copy.deepcopy(model).requires_grad_(False)
    frozen.codebook.averages = False  # nor do its running means move
    sleep = Sleep() if model.likelihood.normalised else None
    optimizer = torch.optim.Adam(posterior.parameters(), rate, fused=True)
    imitated = 0 if teacher is None else updates * 3 // 4
    if teacher is not None:
        frozen_teacher = copy.deepcopy(teacher).requires_grad_(False)
        _run(frozen, Imitation(posterior, frozen_teacher, sleep), data.batches(size, imitated, seed), optimizer)
    learner = GFlowNetEM(posterior, behaviour=OnPolicy(4), schedule=OnlyE(), sleep=sleep)
    _run(frozen, learner, data.batches(size, updates - imitated, seed + 1), optimizer)
    return posterior


def _run(model: LatentVariableModel, learner: Learner, batches: Batches, optimizer: torch.optim.Optimizer) -> None:
    learner.seed = batches.seed
    for _ in fit(model, learner, batches, optimizer):
        pass
