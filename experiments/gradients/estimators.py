"""Estimators of a gradient, and their exact mean and variance.

Every loss of ``latentcomp.objectives`` is a function of log q(z_s|x) and log p(x, z_s) of S samples. Its derivatives c_s in one of the two are the factors
in front of grad log q(z_s|x), or grad log p(x, z_s), in the gradient of any network. So with all multisets of S codes as data, one backward pass gives the
estimator on every sample that there is; weighed by their probability, they give its mean and its variance without sampling.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.gradients.multisets import multisets
from experiments.gradients.problem import Problem
from latentcomp import objectives
from latentcomp.codes.factorised import FactorisedCodes

Aim = Literal["reverse", "forward", "likelihood"]
Source = Literal["q", "exploring", "p", "best", "mode"]
EPSILON = 0.02  # the share of the uniform distribution at each site of an exploring policy: that of GFlowNet-EM in the digits and ablation tables


class Moments(NamedTuple):
    """Of an estimate of a gradient with F numbers, for each of B images.

    Attributes:
        mean: its expectation.
        variance: the trace of its covariance.
        uncertainty: the trace of the covariance of ``mean``: nought where it is exact.
    """

    mean: Float[Tensor, "B F"]
    variance: Float[Tensor, " B"]
    uncertainty: Float[Tensor, " B"]


class Seen(NamedTuple):
    """What a loss sees of S samples in each of T cases.

    Attributes:
        log_q: log q(z_s|x).
        log_joint: log p(x, z_s).
        log_b: log b(z_s|x), of the policy that drew them.
        log_z: what is taken for log p(x).
    """

    log_q: Float[Tensor, "S T"]
    log_joint: Float[Tensor, "S T"]
    log_b: Float[Tensor, "S T"]
    log_z: Float[Tensor, ""]


Loss = Callable[[Seen], Tensor]


class Cost(NamedTuple):
    """Images decoded for a datum, and how many of them the gradient passes back through."""

    forward: float
    backward: float


class Estimator(ABC):
    """A way to estimate a gradient.

    Args:
        aim: the gradient that it is measured against.
    """

    def __init__(self, aim: Aim) -> None:
        self.aim = aim

    @abstractmethod
    def moments(self, problem: Problem, samples: int) -> Moments:
        """Mean and variance with S samples for each image."""

    @abstractmethod
    def cost(self, samples: int) -> Cost:
        """For one estimate."""


class OfCodes(Estimator):
    """An estimator whose gradient is sum_s c_s grad log q(z_s|x), or grad log p(x, z_s) where its aim is the likelihood.

    Args:
        loss: of what it sees of the samples.
        aim: the gradient that it is measured against.
        source: where codes come from: samples of q; of q mixed with the uniform distribution at each site; of the exact posterior, as a dream's are once
            its x is given; the S best codes; the mode of q.
        resample: draw one of the samples by its coefficient, and let it stand for all: the mean stays, the variance grows, one backward pass remains.
    """

    def __init__(self, loss: Loss, aim: Aim, source: Source = "q", resample: bool = False) -> None:
        super().__init__(aim)
        self.loss, self.source, self.resample = loss, source, resample

    def moments(self, problem: Problem, samples: int) -> Moments:
        """Exact, by enumeration."""
        log_z, codes = self._log_z(problem), problem.log_joint.shape[-1]
        every = [self._image(problem, image, log_z, codes, samples) for image in range(len(problem.x))]
        mean, variance = (torch.stack(part) for part in zip(*every, strict=True))
        return Moments(mean, variance, torch.zeros_like(variance))

    def _log_z(self, problem: Problem) -> Float[Tensor, " B"]:
        """What the loss takes for log p(x)."""
        return problem.log_joint.logsumexp(-1)

    def _image(self, problem: Problem, image: int, log_z: Tensor, codes: int, samples: int) -> tuple[Tensor, Tensor]:
        z, p = self._samples(problem, image, codes, samples)
        log_q, log_joint = (table[image][z].clone().requires_grad_() for table in (problem.log_q, problem.log_joint))
        loss = z.shape[1] * self.loss(Seen(log_q, log_joint, self.policy(problem)[image][z], log_z[image]))
        (c,) = torch.autograd.grad(loss, log_joint if self.aim == "likelihood" else log_q)
        directions = torch.eye(codes).to(c) if self.aim == "likelihood" else problem.scores[image]
        summed = c.new_zeros(z.shape[1], codes).scatter_add_(1, z.T, c.T) @ directions
        mean = p @ summed
        squares = summed.square().sum(-1)
        if self.resample:  # one of the directions, drawn with the probabilities -c_s, which sum to one
            squares = (-c * directions.square().sum(-1)[z]).sum(0)
        return mean, p @ squares - mean.square().sum()

    def _samples(self, problem: Problem, image: int, codes: int, samples: int) -> tuple[Tensor, Tensor]:
        """All multisets, and their probabilities; where codes are not drawn, the only one."""
        if self.source in ("best", "mode"):
            table, number = (problem.log_joint, min(samples, codes)) if self.source == "best" else (problem.log_q, 1)
            return table[image].topk(number).indices.unsqueeze(1), table.new_ones(1)
        z, log_number = multisets(codes, samples)
        log_b = self.policy(problem)[image]
        return z, (log_number + log_b[z].sum(0)).exp().to(log_b)

    def policy(self, problem: Problem) -> Float[Tensor, "B M"]:
        """log b of every code, where codes are drawn; log q where they are not."""
        if self.source == "exploring":
            return FactorisedCodes(problem.logits).explore(EPSILON).table()
        return problem.log_p if self.source == "p" else problem.log_q

    def cost(self, samples: int) -> Cost:
        """An E-step reads log p(x, z) without its gradient; dreams and memories have their own price: one image a dream, all candidates once more."""
        number = 1 if self.source == "mode" else samples
        return Cost(number, 0 if self.aim != "likelihood" else 1 if self.resample else number)


class OneLogZ(OfCodes):
    """The same, told the mean of log p(x) over the images in place of each one's own, as one scalar log Z is at its best."""

    def _log_z(self, problem: Problem) -> Float[Tensor, " B"]:
        return super()._log_z(problem).mean().expand(len(problem.x))


def log_variance(seen: Seen) -> Tensor:
    """Half the loss, whose gradient is then that of KL(q || p)."""
    return objectives.log_variance_loss(seen.log_q, seen.log_joint) / 2


def trajectory_balance(seen: Seen) -> Tensor:
    """Half the loss, with log Z(x) at its optimum log p(x)."""
    return objectives.trajectory_balance_loss(seen.log_q, seen.log_joint, seen.log_z) / 2


def leave_one_out(seen: Seen) -> Tensor:
    """REINFORCE with the leave-one-out baseline; samples of another policy are weighed."""
    return objectives.leave_one_out_loss(seen.log_q, seen.log_joint, seen.log_b)


def reinforce(seen: Seen) -> Tensor:
    """REINFORCE without a baseline: l_s log q(z_s|x)."""
    return ((seen.log_q - seen.log_joint).detach() * seen.log_q).mean()


def vimco(seen: Seen) -> Tensor:
    """VIMCO's surrogate."""
    return objectives.vimco_loss(seen.log_q, seen.log_joint)


def wake_phi(seen: Seen) -> Tensor:
    """The wake phase for phi of reweighted wake-sleep."""
    return objectives.wake_phi_loss(seen.log_q, seen.log_joint, seen.log_b)


def cross_entropy(seen: Seen) -> Tensor:
    """The sleep phase's loss, on codes that are given."""
    return objectives.sleep_loss(seen.log_q)


def truncated(seen: Seen) -> Tensor:
    """Cross-entropy from the posterior restricted to the codes at hand, all different."""
    return objectives.truncated_loss(seen.log_q, seen.log_joint, torch.zeros_like(seen.log_q, dtype=torch.bool))


def m_step(seen: Seen) -> Tensor:
    """The plain M-step."""
    return objectives.m_step_loss(seen.log_joint)


def weighted_m_step(seen: Seen) -> Tensor:
    """The M-step of reweighted wake-sleep."""
    return objectives.weighted_m_step_loss(seen.log_joint, seen.log_q)


def truncated_m_step(seen: Seen) -> Tensor:
    """The M-step on the codes at hand, all different."""
    return objectives.truncated_loss(seen.log_joint, seen.log_joint, torch.zeros_like(seen.log_q, dtype=torch.bool))
