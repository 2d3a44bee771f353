"""The VQ-VAE that GFlowNet-EM's published code compares with: its codebook of running means, and its loss.

Two quirks: running counts start at zero while running sums start at the vectors, so that the first steps inflate vectors that were assigned little; and
counts are smoothed towards each other by 10^-5, which keeps those of unused codes above zero. Codes are never restarted.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.learners.learner import Loss, trainable
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.model import LatentVariableModel

SMOOTHING = 1e-5


class PublishedEMACodebook(EMACodebook):
    """K vectors of dimension D, at first uniform in [-1/K, 1/K].

    Args:
        codes: K.
        width: D.
        decay: of the running counts and sums.
    """

    def __init__(self, codes: int, width: int, decay: float = 0.999) -> None:
        super().__init__(codes, width, decay=decay)
        self.weight.uniform_(-1 / codes, 1 / codes)
        self.sums.copy_(self.weight)
        self.counts.zero_()

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """n_k <- (n_k + s) n / (n + K s) after the running mean; e_k <- m_k / n_k."""
        self.counts.lerp_(statistics["counts"].sum(0), 1 - self.decay)
        total = self.counts.sum()
        self.counts.copy_((self.counts + SMOOTHING) / (total + self.codes * SMOOTHING) * total)
        self.sums.lerp_(statistics["sums"].sum(0), 1 - self.decay)
        self.weight.copy_(self.sums / self.counts.unsqueeze(-1))


class PublishedVQ(StraightThrough):
    """-mean log p(x|z) / P + 0.25 mean over sites and dimensions of (h - e)^2, with P pixels: the decoder's term is a mean, not a sum."""

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One update of theta and phi."""
        q = self.posterior(model, batch.x, batch.c)
        z, h = q.mode, q.h
        e = model.codebook(z)
        p = model.decode(objectives.straight_through(h, e))
        reconstruction = -p.log_prob(batch.x).mean() / math.prod(batch.x.shape[1:])
        commitment = objectives.commitment_loss(e, h) / math.prod(h.shape[1:])
        metrics = {"m_loss": reconstruction.detach(), "commitment": commitment.detach()}
        loss = reconstruction + self.commitment_weight * commitment
        yield Loss("VQ", loss, trainable(model, self), metrics, model.codebook.statistics(h, z, batch.positions), p.mean)
