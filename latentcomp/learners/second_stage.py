"""The second stage: a prior p(z|c) learns the codes of a frozen first stage (van den Oord et al., 2017, section 3.2; Esser et al., 2021, section 3.2).

    -E log p(z|c),   z ~ q(z|x), or precomputed.

The sum runs over the codes of z alone: those of a condition stand before them and are not scored. Codebook, decoder and posterior stay as they are.

Minimises: ``objectives.m_step_loss`` of log p(z|c) (``TeacherForced``), or its bound over all orders of sites (``MaskedSites``). Its optimum is the
aggregated posterior E_x q(z|x) of each condition.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.model import LatentVariableModel, with_prior
from latentcomp.noise import Noise
from latentcomp.phases.second_stage import CodeObjective, TeacherForced
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior


class SecondStage(Learner):
    """A prior's learner.

    Args:
        posterior: q(z|x) of the first stage, frozen; not asked where a batch brings its codes.
        objective: what the prior descends.
    """

    feeds_codebook = True  # a codebook of running means is frozen too: it waits for nothing

    def __init__(self, posterior: Posterior, objective: CodeObjective | None = None) -> None:
        super().__init__(posterior.requires_grad_(False).eval())
        self.objective = TeacherForced() if objective is None else objective

    def train(self, mode: bool = True) -> "SecondStage":
        """The posterior stays in evaluation mode."""
        super().train(mode)
        self.posterior.eval()
        return self

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One update of the prior."""
        noise = self.noise(batch)  # one stream: what the objective draws is independent of what the posterior drew before
        log_p = self.objective(model.prior(batch.c), self.codes(model, batch, noise), noise)
        loss = objectives.m_step_loss(log_p)
        yield Loss("second stage", loss, trainable(model.prior), {"nll": loss.detach(), "nats_per_code": loss.detach() / len(model.cardinalities)})

    @torch.no_grad()
    def codes(self, model: LatentVariableModel, batch: Batch, noise: Noise | None = None) -> Int[Tensor, "B N"]:
        """The batch's own codes, or draws of the posterior's; by default those of the first numbers of the step's streams."""
        return self.posterior(model, batch.x, batch.c).sample((), noise or self.noise(batch)) if batch.z is None else batch.z

    def check(self, model: LatentVariableModel, batch: Batch) -> None:
        """Looks at the codes where there are some, and at the images where not.

        Raises:
            TypeError: codes that are no whole numbers.
            ValueError: codes of another number of sites, outside 0..K-1, or conditions of another number of rows.
        """
        if batch.z is None:
            super().check(model, batch)
        else:
            check_codes(batch.z, model.prior)
        if batch.c is not None and len(batch.c) != batch.size:
            raise ValueError(f"a condition goes with each of {batch.size} data, got {len(batch.c)}")


def check_codes(z: Tensor, prior: Prior) -> None:
    """Refuses codes that a prior does not have.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they have another number of sites, or lie outside 0..K_i-1.
    """
    n = len(prior.cardinalities)
    if z.is_floating_point() or z.dtype == torch.bool:
        raise TypeError(f"codes are whole numbers (torch.long), got {z.dtype}: encode images first, or pass them as the batch's x")
    if z.ndim != 2 or z.shape[1] != n:
        raise ValueError(f"the prior has {n} sites, so codes must have shape (B, {n}); got {tuple(z.shape)}: flatten grids, or build the prior for theirs")
    limit = torch.tensor(prior.cardinalities, device=z.device)
    if bool(((z < 0) | (z >= limit)).any()):
        raise ValueError(f"codes must lie in 0..{max(prior.cardinalities) - 1}; got values from {int(z.min())} to {int(z.max())}: build the prior for their K")


def second_stage(model: LatentVariableModel, prior: Prior) -> LatentVariableModel:
    """The first stage's model under the prior to be learned, all else frozen: what ``fit`` is given with a :class:`SecondStage`.

    Codebook and decoder are shared with the given model, so that they are frozen there too.

    Raises:
        ValueError: the prior has other sites or other numbers of codes than the model, whose posterior would then choose other codes.
    """
    if prior.cardinalities != model.cardinalities:
        raise ValueError(
            f"the first stage has {_sites(model.cardinalities)}, the prior {_sites(prior.cardinalities)}: build the prior with "
            "cardinalities=model.cardinalities, for with fewer codes the posterior chooses others than it learned with"
        )
    for part in (model.codebook, model.decoder, model.likelihood):
        part.requires_grad_(False).eval()
    return with_prior(model, prior)


def _sites(cardinalities: Sequence[int]) -> str:
    """How many sites of how many codes; one by one where they differ."""
    same = len(set(cardinalities)) == 1
    return f"{len(cardinalities)} sites of {cardinalities[0] if same else tuple(cardinalities)} codes"
