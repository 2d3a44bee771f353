"""Vector quantisation with the straight-through gradient: the VQ-VAE (van den Oord et al., 2017, eq. 3).

The posterior is certain of the nearest code. The decoder's gradient skips the lookup and lands on the encoder's output h; two more terms pull h and the
chosen vectors e together:

    -log p(x, z) + w ||sg[h] - e||^2 + beta ||h - sg[e]||^2.

Under a codebook without parameters the second term moves nothing: an ``EMACodebook`` has running means instead, ``FSQ`` and ``LFQ`` never move. How the
gradient passes the lookup is a function, ``objectives.straight_through`` or ``objectives.rotation_trick``; an entropy term may join the loss.

Minimises: ``objectives.m_step_loss``, ``objectives.codebook_loss``, ``objectives.commitment_loss``. Its optimum is a point-mass ELBO,
max_z log p(x, z), in so far as the nearest code is the best one; the straight-through gradient is the gradient of no function.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.phases.code_entropy import CodeEntropy
from latentcomp.posteriors.nearest_code import NearestCode


class StraightThrough(Learner):
    """The VQ-VAE's learner.

    Args:
        posterior: the encoder, with the model's codebook for a quantiser.
        codebook_weight: w, of the term that moves the codebook.
        commitment_weight: beta, of the term that moves the encoder (0.25 in the paper; the published VQGAN code exchanges the two).
        gradient: (h, e) to the value of e with a gradient in h.
        entropy: what keeps codes in use, or None; LFQ needs it.
    """

    feeds_codebook = True

    def __init__(
        self,
        posterior: NearestCode,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        gradient: Callable[[Tensor, Tensor], Tensor] = objectives.straight_through,
        entropy: CodeEntropy | None = None,
    ) -> None:
        super().__init__(posterior)
        if not isinstance(posterior, NearestCode):
            raise TypeError(
                f"StraightThrough passes the gradient through a nearest-code lookup, so it wants a NearestCode posterior, not {type(posterior).__name__}"
            )
        self.codebook_weight, self.commitment_weight, self.gradient, self.entropy = codebook_weight, commitment_weight, gradient, entropy

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One update of theta and phi."""
        q = self.posterior(model, batch.x, batch.c)
        z, h = q.mode, q.h
        p = model.decode(self.gradient(h, model.codebook(z)))
        terms = p.terms(batch.x)
        m_loss = objectives.m_step_loss(model.prior(batch.c).log_prob(z) - torch.stack([*terms.values()]).sum(0))
        target, e = model.codebook.assigned(h, z)
        codebook, commitment = objectives.codebook_loss(e, target), objectives.commitment_loss(e, target)
        quantisation = self.codebook_weight * codebook + self.commitment_weight * commitment
        loss = m_loss + quantisation
        metrics = {"m_loss": m_loss.detach(), "codebook": codebook.detach(), "commitment": commitment.detach()}
        metrics |= {"quantisation": quantisation.detach()} | {name: term.detach().mean() for name, term in terms.items()}
        if self.entropy is not None:
            entropy = self.entropy(model.codebook, h)
            loss, metrics["entropy"] = loss + entropy, entropy.detach()
        yield Loss("VQ", loss, trainable(model, self), metrics, model.codebook.statistics(h, z, batch.positions), p.mean)

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The codebook learns what needs no gradient: running means, restarts."""
        model.codebook.update(statistics, self.seed, self.step)
        super().update(model, statistics)
