"""EM of R mixtures at once, by the library's own learners.

Two things are added. *Summed:* a loss that is a mean over all rows would scale each run's by 1/R, so it is multiplied by R: the sum over runs of each one's
mean over its points, whose gradient for a run is what it would be if the run were alone. *Closed form:* given r(i, j|x), the expected log-joint is a
quadratic in mu, and its maximum is the weighted mean of the points less their petals,

    mu_i = sum_x sum_j r(i, j|x) (x - o_j) / sum_x sum_j r(i, j|x).                                                      (M-step)

Such a step descends nothing: its loss learns no parameter, its sums travel as statistics, and ``update`` writes mu.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from experiments.mixture.data import CLUSTERS
from experiments.mixture.mean_field import MeanField
from experiments.mixture.model import Mixtures
from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.enumeration import log_joint_table
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.em import EM
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.learner import Loss
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.m_step import MStep


def new_means(weights: Float[Tensor, "R B K K"], x: Float[Tensor, "R B 2"], petals: Float[Tensor, "K 2"], old: Float[Tensor, "R K 2"]) -> Tensor:
    """The maximum of sum_x sum_ij r(i, j|x) log p(x, i, j) in mu, ``(R, K, 2)``; a cluster that no point belongs to stays where it is."""
    mass = weights.sum((1, 3)).unsqueeze(-1)
    sums = weights.sum(3).mT @ x - weights.sum(1) @ petals
    return torch.where(mass > 0, sums / mass.clamp_min(torch.finfo(mass.dtype).tiny), old)


class Responsibilities(MStep):
    """r(i, j|x) for a closed-form M-step: q of all codes, or samples of q weighed by p(x, z) / q(z|x).

    Args:
        samples: S for each point, drawn from q; None for all codes, which asks for no sampling.
    """

    def __init__(self, samples: int | None = None) -> None:
        super().__init__()
        self.samples = samples

    @torch.no_grad()
    def table(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, "B M"]:
        """r of all codes."""
        if self.samples is None:
            return q.table().exp()
        z, log_q = q.sample_and_log_prob((self.samples,), noise)
        weights = (model.log_joint(batch.x, z, batch.c) - log_q).softmax(0)
        return torch.zeros(batch.size, CLUSTERS**2, dtype=weights.dtype, device=weights.device).scatter_add_(1, (z[..., 0] * CLUSTERS + z[..., 1]).T, weights.T)

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean E_r[log p(x, z)], the function that the closed form minimises."""
        return -objectives.expected_log_joint(self.table(model, q, batch, noise).log(), log_joint_table(model, batch.x, batch.c)).mean()


class Summed(Alternating):
    """Losses summed over runs."""

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """Those of the learner, R times."""
        for loss in super().losses(model, batch):
            yield loss._replace(value=loss.value * getattr(model, "runs", 1))


class ClosedForm(Alternating):
    """An M-step without a gradient; ``m_step`` is ``Responsibilities``."""

    def maximisation(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """Nothing to descend; r and x for ``update``."""
        if not isinstance(self.m_step, Responsibilities):
            raise ValueError(f"a closed-form M-step needs Responsibilities, not {type(self.m_step).__name__}: give it as m_step")
        with torch.no_grad():
            q = self.posterior(model, batch.x, batch.c)
            r = self.m_step.table(model, q, batch, noise)
        return Loss("M-step", r.new_zeros(()), [], {}, {"r": r, "x": batch.x} | self.remembered(q))

    def remembered(self, q: CodeDistribution) -> dict[str, Tensor]:
        """What else of q the next step needs."""
        return {}

    @torch.no_grad()
    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """Writes mu."""
        if "r" in statistics and isinstance(model, Mixtures):
            weights = rearrange(statistics["r"], "(r b) (i j) -> r b i j", r=model.runs, i=CLUSTERS).to(model.means.dtype)
            model.means.copy_(new_means(weights, model.by_run(statistics["x"].flatten(1)), model.decoder.petals, model.means))
        super().update(model, statistics)


class ExactEM(ClosedForm, EM):
    """EM with the exact posterior and the closed-form M-step."""


class VariationalEM(ClosedForm, EM):
    """EM with the mean-field posterior, whose points remember where their ascent was."""

    def remembered(self, q: CodeDistribution) -> dict[str, Tensor]:
        """log q(j|x)."""
        return {"petal": q.logits[:, 1]}  # type: ignore[attr-defined]

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """Writes mu and q(j|x)."""
        if "petal" in statistics and isinstance(self.posterior, MeanField):
            self.posterior.petal = statistics["petal"]
        super().update(model, statistics)


class RunwiseGFlowNetEM(Summed, GFlowNetEM):
    """GFlowNet-EM whose M-step descends a gradient: the published notebook's."""


class ClosedFormGFlowNetEM(Summed, ClosedForm, GFlowNetEM):
    """GFlowNet-EM whose M-step is the closed form, on samples."""
