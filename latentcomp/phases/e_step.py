"""E-step objectives: how q(z|x) moves towards p(z|x), given samples of a behaviour policy and their log p(x, z).

Each object here is an equation of ``objectives.py`` together with the parameters that it needs (log Z) and the behaviour that it allows.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.codes.distribution import CodeDistribution


class Objective(nn.Module, ABC):
    """A loss for phi from S samples for each of B data.

    Attributes:
        least_samples: the smallest S it is defined for.
        off_policy: whether its optimum stays where it is when the behaviour policy is not q.
        comparable: whether its value says how good q is, so that a threshold may read it.
        weighs: whether it weighs samples by the density of the behaviour policy, and so needs one.
    """

    least_samples = 1
    off_policy = True
    comparable = True
    weighs = False

    @abstractmethod
    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The loss, with a gradient in phi. ``log_b``, log b(z|x), equals log q in value where the objective does not weigh."""


class ScalarLogZ(nn.Module):
    """One number for log Z, whatever x: the published code's choice. Right only where all x have the same log p(x)."""

    def __init__(self, initial: float = 0.0) -> None:
        super().__init__()
        self.log_z = nn.Parameter(torch.tensor(initial))

    def forward(self, q: CodeDistribution) -> Float[Tensor, ""]:
        """log Z."""
        return self.log_z


class AmortisedLogZ(nn.Module):
    """log Z(x), a small network on the posterior's features of x: at its optimum log p(x).

    Args:
        features: H, the width of the posterior's context.
        width: of the hidden layer.
        initial: the value it starts near, in nats.
    """

    def __init__(self, features: int, width: int = 64, initial: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))
        self.initial = initial

    def forward(self, q: CodeDistribution) -> Float[Tensor, "B"]:
        """log Z(x)."""
        return self.network(q.context).squeeze(-1) + self.initial


class TrajectoryBalance(Objective):
    """(log Z(x) + log q - log p)^2.

    Args:
        log_z: ``AmortisedLogZ``, or ``ScalarLogZ``.
        faithful: accept a scalar log Z where it biases q (off-policy) or blinds a threshold, as a faithful preset of the published code must.
        per_site: divide log q and log p by the number of sites N, as the published code does; log Z is then that of one site.
    """

    def __init__(self, log_z: AmortisedLogZ | ScalarLogZ, faithful: bool = False, per_site: bool = False) -> None:
        super().__init__()
        self.log_z, self.per_site = log_z, per_site
        self.scalar = isinstance(log_z, ScalarLogZ) and not faithful
        self.off_policy = not self.scalar

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The squared balance residual."""
        share = 1 / len(q.cardinalities) if self.per_site else 1.0
        return objectives.trajectory_balance_loss(log_q * share, log_joint * share, self.log_z(q))


class LogVariance(Objective):
    """Var_s[log p(x, z_s) - log q(z_s|x)] within each x: trajectory balance without a log Z to learn."""

    least_samples = 2

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The variance of the residual."""
        return objectives.log_variance_loss(log_q, log_joint)


class LeaveOneOut(Objective):
    """The score-function estimator of grad KL(q || p(z|x)), with the other samples as the baseline."""

    least_samples = 2
    comparable = False
    weighs = True

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The surrogate loss."""
        return objectives.leave_one_out_loss(log_q, log_joint, log_b)


class WakePhi(Objective):
    """Cross-entropy from importance-weighted samples: KL(p(z|x) || q) up to a constant, with a bias that S removes."""

    least_samples = 2  # a single sample has the weight 1, whatever it is
    weighs = True

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The weighted cross-entropy."""
        return objectives.wake_phi_loss(log_q, log_joint, log_b)
