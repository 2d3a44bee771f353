"""Vector quantisation with the straight-through gradient: the VQ-VAE (van den Oord et al., 2017, eq. 3).

The posterior is certain of the nearest code. The decoder's gradient skips the lookup and lands on the encoder's output h; two more terms pull h and the
chosen vectors e together:

    -log p(x, z) + w ||sg[h] - e||^2 + beta ||h - sg[e]||^2.

With an ``EMACodebook`` the second term has no parameter to move; the vectors are running means instead.

Minimises: ``objectives.m_step_loss``, ``objectives.codebook_loss``, ``objectives.commitment_loss``. Its optimum is a point-mass ELBO,
max_z log p(x, z), in so far as the nearest code is the best one; the straight-through gradient is the gradient of no function.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.nearest_code import NearestCode


class StraightThrough(Learner):
    """The VQ-VAE's learner.

    Args:
        posterior: the encoder, with the model's codebook for a quantiser.
        codebook_weight: w, of the term that moves the codebook.
        commitment_weight: beta, of the term that moves the encoder (0.25 in the paper; the published VQGAN code exchanges the two).
    """

    feeds_codebook = True

    def __init__(self, posterior: NearestCode, codebook_weight: float = 1.0, commitment_weight: float = 0.25) -> None:
        super().__init__(posterior)
        if not isinstance(posterior, NearestCode):
            raise TypeError(
                f"StraightThrough passes the gradient through a nearest-code lookup, so it wants a NearestCode posterior, not {type(posterior).__name__}"
            )
        self.codebook_weight, self.commitment_weight = codebook_weight, commitment_weight

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One update of theta and phi."""
        q = self.posterior(model, batch.x, batch.c)
        z, h = q.mode, q.h
        e = model.codebook(z)
        p = model.decode(objectives.straight_through(h, e))
        terms = p.terms(batch.x)
        m_loss = objectives.m_step_loss(model.prior(batch.c).log_prob(z) - torch.stack([*terms.values()]).sum(0))
        codebook, commitment = objectives.codebook_loss(e, h), objectives.commitment_loss(e, h)
        quantisation = self.codebook_weight * codebook + self.commitment_weight * commitment
        metrics = {"m_loss": m_loss.detach(), "codebook": codebook.detach(), "commitment": commitment.detach()}
        metrics |= {"quantisation": quantisation.detach()} | {name: term.detach().mean() for name, term in terms.items()}
        yield Loss("VQ", m_loss + quantisation, trainable(model, self), metrics, model.codebook.statistics(h, z, batch.positions), p.mean)

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The codebook learns what needs no gradient: running means, restarts."""
        model.codebook.update(statistics, self.seed, self.step)
        super().update(model, statistics)
