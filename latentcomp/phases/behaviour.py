"""Behaviour policies: where the samples of an E-step come from.

On-policy samples are drawn from q itself. GFlowNet objectives may also learn from other samples, and that is what sets them apart: a behaviour policy
may look where q does not yet, return to what it has seen (``replay``), or move what another policy drew towards p(z|x) (``moves``).

A policy may have a memory. It is written once a step, in ``update``, from the rows that ``statistics`` gave while the losses were made; so a loss that is
not finite writes nothing, and the split of a batch changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution, checked_exploration
from latentcomp.model import LatentVariableModel
from latentcomp.moves import Kernel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior


class Behaviour(nn.Module, ABC):
    """A rule that draws codes for an E-step.

    Args:
        samples: S, how many for each datum.

    Attributes:
        on_policy: whether the samples come from q.
        of_posterior: whether they come from p(z|x), or do in the end, so that they may be imitated.
    """

    on_policy = True
    of_posterior = False

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

    def statistics(self, batch: Batch, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        """What ``update`` needs to know of this batch: tensors whose first axis is the batch's.

        Args:
            batch: the data.
            z: all codes of the E-step, those that this behaviour drew first.
            log_joint: their log p(x, z).
        """
        return {}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """Writes the memory, once a step; without rows (a step without E-step) there is nothing to write."""


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
    of_posterior = True

    def __init__(self, teacher: Posterior, samples: int = 4) -> None:
        super().__init__(samples)
        self.teacher = teacher

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], CodeDistribution | None]:
        """Samples of the teacher, and its distribution."""
        return super().forward(model, self.teacher(model, batch.x, batch.c), batch, noise)


class Moved(Behaviour):
    """Another behaviour's codes, after some steps of a Markov kernel. What comes out has no density.

    Args:
        behaviour: where the codes come from.
        kernel: one of ``moves``.
        steps: how many.
    """

    on_policy = False
    of_posterior = True

    def __init__(self, behaviour: Behaviour, kernel: Kernel, steps: int = 1) -> None:
        super().__init__(behaviour.samples)
        self.behaviour, self.kernel, self.steps = behaviour, kernel, steps

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], None]:
        """The moved codes."""
        z, _ = self.behaviour(model, q, batch, noise)
        return self.kernel(model, q, batch, z, noise, self.steps), None

    def statistics(self, batch: Batch, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        """What the wrapped behaviour wants to know: it remembers where its codes went."""
        return self.behaviour.statistics(batch, z, log_joint)

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """The wrapped behaviour's memory."""
        self.behaviour.update(statistics)


class Mixed(Behaviour):
    """Several behaviours at once: S is the sum of theirs. Each learns from the codes of all. As a mixture its codes are given no density.

    Args:
        behaviours: at least one.
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        if not behaviours:
            raise ValueError("Mixed mixes at least one behaviour, and got none")
        super().__init__(sum(behaviour.samples for behaviour in behaviours))
        self.behaviours = nn.ModuleList(behaviours)
        self.on_policy = all(behaviour.on_policy for behaviour in behaviours)
        self.of_posterior = all(behaviour.of_posterior for behaviour in behaviours)

    @property
    def parts(self) -> list[Behaviour]:
        """The behaviours."""
        return cast(list[Behaviour], list(self.behaviours))

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], None]:
        """The codes of each, one behaviour after the other."""
        return torch.cat([behaviour(model, q, batch, noise)[0] for behaviour in self.parts]), None

    def statistics(self, batch: Batch, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        """What each of them wants to know, under its number."""
        rows: dict[str, Tensor] = {}
        drawn = 0
        for number, behaviour in enumerate(self.parts):
            own_first = behaviour.statistics(batch, z.roll(-drawn, 0), log_joint.roll(-drawn, 0))
            rows |= {f"{number}.{key}": value for key, value in own_first.items()}
            drawn += behaviour.samples
        return rows

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """The memory of each."""
        for number, behaviour in enumerate(self.parts):
            mark = f"{number}."
            behaviour.update({key.removeprefix(mark): value for key, value in statistics.items() if key.startswith(mark)})
