"""Behaviour policies: where the samples of an E-step come from.

On-policy samples are drawn from q itself. GFlowNet objectives may also learn from other samples, and that is what sets them apart: a behaviour policy
may look where q does not yet.
"""

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution, checked_exploration
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior


class Behaviour(nn.Module, ABC):
    """A rule that draws codes for an E-step.

    Args:
        samples: S, how many for each datum.

    Attributes:
        on_policy: whether the samples come from q.
    """

    on_policy = True

    def __init__(self, samples: int = 4) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"a behaviour policy draws at least one sample for each datum, got samples={samples}")
        self.samples = samples

    def policy(self, q: CodeDistribution) -> CodeDistribution:
        """The distribution that codes are drawn from when q is the posterior."""
        return q

    @abstractmethod
    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], CodeDistribution | None]:
        """Codes without a gradient, and the policy that drew them; None where it has no density (a Markov kernel)."""


class OnPolicy(Behaviour):
    """z ~ q(z|x)."""

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], CodeDistribution | None]:
        """Samples of the policy, and the policy."""
        b = self.policy(q)
        return b.sample((self.samples,), noise), b


class Exploring(OnPolicy):
    """z ~ q flattened: each conditional at a temperature, then mixed with the uniform distribution (Bengio et al., 2021).

    Args:
        samples: S, how many for each datum.
        epsilon: the share of the uniform distribution at each site.
        temperature: above 1 flattens, below 1 sharpens.
    """

    def __init__(self, samples: int = 4, epsilon: float = 0.05, temperature: float = 1.0) -> None:
        super().__init__(samples)
        checked_exploration(epsilon, temperature)
        self.epsilon, self.temperature = epsilon, temperature
        self.on_policy = epsilon == 0 and temperature == 1

    def policy(self, q: CodeDistribution) -> CodeDistribution:
        """The flattened q."""
        return q.explore(self.epsilon, self.temperature)


class FromPosterior(OnPolicy):
    """z ~ another posterior, such as the exact one: what q would learn from if the E-step were solved already.

    Args:
        teacher: the posterior that draws.
        samples: S, how many for each datum.
    """

    on_policy = False

    def __init__(self, teacher: Posterior, samples: int = 4) -> None:
        super().__init__(samples)
        self.teacher = teacher

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], CodeDistribution | None]:
        """Samples of the teacher, and its distribution."""
        return super().forward(model, self.teacher(model, batch.x, batch.c), batch, noise)
