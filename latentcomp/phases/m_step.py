"""M-steps: which codes theta learns from. Each gives -log p(x, z), averaged over codes that the posterior q, never a behaviour policy, chose.

A learned prior is part of p(x, z), so it trains along.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.enumeration import log_joint_table
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise


class MStep(nn.Module, ABC):
    """A rule that turns q(z|x) into a loss for theta."""

    @abstractmethod
    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """The loss in nats a datum, with a gradient in theta alone."""


class Sampled(MStep):
    """z ~ q: an unbiased estimate of the ELBO's gradient in theta.

    Args:
        samples: S, how many for each datum.
    """

    def __init__(self, samples: int = 1) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean log p(x, z_s)."""
        z = q.sample((self.samples,), noise)
        return objectives.m_step_loss(model.log_joint(batch.x, z, batch.c))


class Greedy(MStep):
    """z = mode of q: hard EM. Biased for the likelihood: it maximises log p(x, z*) instead."""

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean log p(x, z*)."""
        return objectives.m_step_loss(model.log_joint(batch.x, q.mode, batch.c))


class ImportanceWeighted(Sampled):
    """z_s ~ q, weighed by p(x, z_s) / q(z_s|x), normalised for each datum: nearer to grad log p(x) than ``Sampled`` where q is not exact."""

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean sum_s w_s log p(x, z_s)."""
        z, log_q = q.sample_and_log_prob((self.samples,), noise)
        return objectives.weighted_m_step_loss(model.log_joint(batch.x, z, batch.c), log_q)


class Marginalised(MStep):
    """All K^N codes, weighed by q: the M-step of exact EM when q is the exact posterior."""

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean E_q[log p(x, z)]."""
        log_joint = log_joint_table(model, batch.x, batch.c)
        with torch.no_grad():
            log_q = q.table()
        return -objectives.expected_log_joint(log_q, log_joint).mean()
