"""What the published notebook does and a modern run would not: its log-reward, its threshold, its constant.

1. The reward is exp(-||x - mu_i - o_j||^2 / (2 s^2)), without the normaliser and the uniform prior, so log Z(x) is log p(x) less a constant.
2. The log-reward is clipped at -20: codes farther than 1.58 from x all weigh the same, and the optimum of the balance is the clipped posterior.
3. The threshold of the M-step (100) is compared with the last E-step's loss *divided by the number of points*, although the loss is a mean already.
4. The printed log-likelihoods add 2 log s + log 2 pi to each coordinate where one half of it should be subtracted: 3 (2 log s + log 2 pi) = -2.804 nats.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.mixture.data import CLUSTERS, PETALS, SCALE
from latentcomp import objectives
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.phases.e_step import AmortisedLogZ, ScalarLogZ, TrajectoryBalance
from latentcomp.phases.schedule import E, Period

LOG_NORMALISER = -2 * math.log(SCALE) - math.log(2 * math.pi)  # of two coordinates
CONSTANT = -3 * LOG_NORMALISER  # the notebook's log-likelihood minus the true one, in nats per point


class PublishedBalance(TrajectoryBalance):
    """(log Z(x) + log q - max(log R, clip))^2 with log R = -||x - mu_i - o_j||^2 / (2 s^2).

    Args:
        log_z: the policy's own output.
        clip: the least log-reward.
    """

    def __init__(self, log_z: AmortisedLogZ | ScalarLogZ, clip: float = -20.0) -> None:
        super().__init__(log_z)
        self.clip = clip

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The squared balance residual."""
        log_reward = log_joint - LOG_NORMALISER + math.log(CLUSTERS * PETALS)
        return objectives.trajectory_balance_loss(log_q, log_reward.clamp_min(self.clip), self.log_z(q))


class GatedPeriod(Period):
    """E-steps, then M-steps, these only where the last E-step's loss over the number of points lies below a threshold.

    The loss is the mean over all runs that are advanced together; a threshold that binds holds back all of them.

    Args:
        e_steps: the length of an E-phase.
        m_steps: the length of an M-phase.
        threshold: in nats squared.
        points: what the loss is divided by.
    """

    reads_loss = True
    last: Tensor

    def __init__(self, e_steps: int, m_steps: int, threshold: float, points: int) -> None:
        super().__init__(e_steps, m_steps)
        self.threshold, self.points = threshold, points
        self.register_buffer("last", torch.tensor(math.inf))

    def updates(self, step: int) -> Sequence[str]:
        """E, or M where the gate is open."""
        updates = super().updates(step)
        return updates if E in updates or bool(self.last / self.points < self.threshold) else ()

    def update(self, step: int, statistics: Mapping[str, Tensor]) -> None:
        """Remembers the loss of an E-step."""
        if "e_loss" in statistics:
            self.last.copy_(statistics["e_loss"].mean())
