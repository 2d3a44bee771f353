"""E-step objectives on parts of a trajectory, with a flow head: detailed balance and sub-trajectory balance.

A state is a prefix of z; its flow F is the sum of p(x, z) over all codes that begin with it. The flow of the empty prefix is p(x), that of a complete one
p(x, z). Trajectory balance asks for agreement of the two ends; these ask for it on every step, or on every part, so each site hears about its own error.
The price is a head to learn: while the flows are wrong they mislead q. Every prefix has one parent, so P_B = 1.
"""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.phases.e_step import Objective


class PrefixFlow(nn.Module):
    """log F(z_<i; x), a small network on the posterior's features of the prefix.

    Args:
        features: H, the width of those features: the policy network's hidden width.
        width: of the hidden layer.
        initial: the value it starts near, in nats.
    """

    def __init__(self, features: int, width: int = 64, initial: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 1))
        self.initial = initial

    def forward(self, q: CodeDistribution, z: Int[Tensor, "S B N"]) -> Float[Tensor, "S B N"]:
        """log F of the N incomplete prefixes of z, the empty one first."""
        return self.network(q.features(z)[..., :-1, :]).squeeze(-1) + self.initial


class DetailedBalance(Objective):
    """(log F(z_<i) + log q(z_i|z_<i, x) - log F(z_<=i))^2, a mean over sites.

    Args:
        flow: ``PrefixFlow``.
    """

    def __init__(self, flow: PrefixFlow) -> None:
        super().__init__()
        self.flow = flow

    def on_codes(
        self, q: CodeDistribution, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"], log_b: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "S B"]]:
        """The loss from every prefix of z."""
        log_q_steps = q.log_prob_steps(z)
        return self.balance(self.flow(q, z), log_q_steps, log_joint), log_q_steps.sum(-1)

    def balance(self, log_flow: Float[Tensor, "S B N"], log_q_steps: Float[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The squared residuals."""
        return objectives.detailed_balance_loss(log_flow, log_q_steps, log_joint)

    def forward(self, q: CodeDistribution, log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """Refused: log q of the whole sequence does not say what its prefixes have."""
        raise TypeError(f"{type(self).__name__} needs the codes themselves, to look at their prefixes: call on_codes(q, z, log_joint, log_b)")


class SubTrajectoryBalance(DetailedBalance):
    """The balance of all parts of a trajectory, weighed by lambda to the power of their length.

    Args:
        flow: ``PrefixFlow``.
        lambda_: small for single steps, 1 for all parts alike, large for the whole trajectory.

    Raises:
        ValueError: lambda is not positive and finite.
    """

    def __init__(self, flow: PrefixFlow, lambda_: float = 0.9) -> None:
        super().__init__(flow)
        if not 0 < lambda_ < float("inf"):
            raise ValueError(f"lambda must be positive and finite, got {lambda_}: near 0 is DetailedBalance, very large is TrajectoryBalance")
        self.lambda_ = lambda_

    def balance(self, log_flow: Float[Tensor, "S B N"], log_q_steps: Float[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
        """The weighted squared residuals."""
        return objectives.sub_trajectory_balance_loss(log_flow, log_q_steps, log_joint, self.lambda_)
