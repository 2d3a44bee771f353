"""E-step objectives: how q(z|x) moves towards p(z|x), given samples of a behaviour policy and their log p(x, z).

Each object here is an equation of ``objectives.py`` together with the parameters that it needs (log Z) and the behaviour that it allows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.support import repeated


class Objective(nn.Module, ABC):
    """A loss for phi from S samples for each of B data.

    Attributes:
        least_samples: the smallest S it is defined for.
        off_policy: whether it may learn from other samples than q's: its optimum stays where it is, or is what the samples themselves aim at.
        imitates: whether it aims at the samples' own distribution, which must then be the posterior's.
        comparable: whether its value says how good q is, so that a threshold may read it.
        weighs: whether it weighs samples by the density of the behaviour policy, and so needs one.
        refusal: what is wrong with a behaviour policy other than q, for one that is not ``off_policy``.
    """

    least_samples = 1
    off_policy = True
    imitates = False
    comparable = True
    weighs = False
    refusal = ""

    def on_codes(
        self, q: CodeDistribution, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"], log_b: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "S B"]]:
        """The loss of the codes z, and their log q(z|x); ``log_b`` gives log b(z|x) from log q. For objectives that see more of z than log q."""
        log_q = q.log_prob(z)
        return self(q, log_q, log_joint, log_b(log_q)), log_q

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
        self.refusal = (
            "a scalar log Z is biased off-policy: for x whose log p(x) differs from it, {behaviour} samples push q away from p(z|x); "
            "use AmortisedLogZ or LogVariance; TrajectoryBalance(..., faithful=True) repeats the published code knowingly"
        )

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
    comparable = False  # the floor of a cross-entropy is the posterior's entropy
    weighs = True

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The weighted cross-entropy."""
        return objectives.wake_phi_loss(log_q, log_joint, log_b)


class MultiSample(Objective):
    """The bound of S samples, log (1/S) sum_s p(x, z_s) / q(z_s|x), by VIMCO's estimate of its gradient. Its optimum for large S is not that of the ELBO."""

    least_samples = 2
    off_policy = False
    comparable = False
    refusal = "the bound of S samples is over samples of q; {behaviour} samples are not: use OnPolicy, or WakePhi, which weighs by any density"

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The surrogate loss, with a gradient in log p too where one is recorded."""
        return objectives.vimco_loss(log_q, log_joint)


class CrossEntropy(Objective):
    """-log q of the behaviour's codes, all alike: KL(p(z|x) || q) up to a constant where they come from p(z|x), as those of Markov chains do in the end."""

    imitates = True
    comparable = False

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The cross-entropy."""
        return objectives.sleep_loss(log_q)


class Truncated(Objective):
    """Cross-entropy from the posterior truncated to the behaviour's distinct codes, whose weights are p(x, z) normalised over them: no density needed.

    Its optimum is the posterior restricted to those codes: the exact one where they are all that matter.
    """

    least_samples = 2
    comparable = False

    def on_codes(
        self, q: CodeDistribution, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"], log_b: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "S B"]]:
        """The weighted cross-entropy; a code that occurs twice counts once."""
        log_q = q.log_prob(z)
        return objectives.truncated_loss(log_q, log_joint, repeated(z.movedim(0, 1)).T), log_q

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The same, of codes that are all different."""
        return objectives.truncated_loss(log_q, log_joint, torch.zeros_like(log_q, dtype=torch.bool))
