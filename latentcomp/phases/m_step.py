"""M-steps: which codes theta learns from. Each gives -log p(x, z), averaged over codes that the posterior q chose.

``Remembered`` alone takes those of the behaviour policy instead, for methods whose E-step finds codes of p(z|x) by other means than q: Markov chains, or a
memory of the best. A learned prior is part of p(x, z), so it trains along.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.support import repeated
from latentcomp.enumeration import log_joint_table
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise


class MStep(nn.Module, ABC):
    """A rule that turns q(z|x) into a loss for theta.

    Attributes:
        from_behaviour: whether it wants the codes of this step's E-step, or without one new codes of the behaviour, as ``batch.z`` of ``(S, B, N)``.
    """

    from_behaviour = False

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


class Remembered(MStep):
    """The behaviour's codes: all alike, as Markov chains on p(z|x) want it, or as the truncated posterior, weighed by p(x, z) over the distinct ones.

    Args:
        weighted: weigh by p(x, z); then the gradient is that of -log sum_z p(x, z) over the codes at hand.
    """

    from_behaviour = True

    def __init__(self, weighted: bool = False) -> None:
        super().__init__()
        self.weighted = weighted

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean log p(x, z_s), or -mean sum_s w_s log p(x, z_s)."""
        if batch.z is None:
            raise ValueError("Remembered learns from the codes that a behaviour found, and the batch has none: use it in a learner, or pass Batch(x, z=codes)")
        z = batch.z if batch.z.ndim == 3 else batch.z.unsqueeze(0)
        log_joint = model.log_joint(batch.x, z, batch.c)
        if self.weighted:
            return objectives.truncated_loss(log_joint, log_joint, repeated(z.movedim(0, 1)).T)
        return objectives.m_step_loss(log_joint)
