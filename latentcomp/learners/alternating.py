"""Generalised EM: what all learners with a stochastic posterior share.

E-step: move q(z|x) towards p(z|x), theta fixed. M-step: move p(x, z) towards the codes that q chooses, phi fixed. Each is a descent of

    -ELBO = -log p(x) + KL(q(z|x) || p(z|x))                                        (Neal and Hinton, 1998)

in one of its arguments, exactly or in estimate. A learner of this kind is a choice of five parts: the objective of the E-step, the behaviour policy that
draws its samples, the schedule of the two steps, the kind of M-step, and the sleep phase, a second E-step on dreams.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Behaviour, OnPolicy
from latentcomp.phases.e_step import Objective
from latentcomp.phases.m_step import MStep, Sampled
from latentcomp.phases.schedule import BOTH, E, EachBatch, Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class Alternating(Learner):
    """E-steps and M-steps.

    Args:
        posterior: a stochastic q(z|x).
        objective: of the E-step; None leaves q to the sleep phase (or to itself, where it has no parameters).
        behaviour: what draws the E-step's samples.
        schedule: when to do which.
        m_step: which codes theta learns from.
        sleep: the sleep phase after each E-step, or None.

    Raises:
        ValueError: the parts do not fit together; the message says why.
    """

    def __init__(
        self,
        posterior: Posterior,
        objective: Objective | None = None,
        behaviour: Behaviour | None = None,
        schedule: Schedule | None = None,
        m_step: MStep | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        super().__init__(posterior)
        self.objective, self.sleep = objective, sleep
        self.behaviour, self.schedule, self.m_step = behaviour or OnPolicy(), schedule or EachBatch(), m_step or Sampled()
        if objective is not None:
            _check(objective, self.behaviour, self.schedule)

    def check(self, model: LatentVariableModel, batch: Batch) -> None:
        """Refuses data that the model cannot explain.

        Raises:
            ValueError: and a sleep phase, where the likelihood is an unnormalised energy.
        """
        super().check(model, batch)
        if self.sleep is not None and not model.likelihood.normalised:
            raise ValueError(
                f"{type(model.likelihood).__name__} is an unnormalised energy, from which nothing can be dreamt: {type(self).__name__} with a Sleep phase "
                "wants a normalised likelihood, such as Laplace(learned=True). Pass sleep=None to learn the generalised posterior of the energy"
            )

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """The updates that the schedule names, the E-step's sleep phase behind it."""
        noise = self.noise(batch)
        for update in self.schedule.updates(self.step):
            if update == BOTH:
                yield self.both(model, batch, noise)
            elif update == E:
                for loss in self.e_step(model, batch, noise):
                    yield loss
                    batch = _with_codes(batch, loss)
            else:
                yield self.maximisation(model, batch, noise)
            if update in (E, BOTH) and self.sleep is not None and self.sleep.due(self.seed, self.step):
                dreamt = self.sleep(model, self.posterior, batch, noise)
                yield Loss("sleep", dreamt, trainable(self), {"sleep": dreamt.detach()})

    def e_step(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Iterator[Loss]:
        """One update of phi, where q has something to learn awake."""
        loss = self.expectation(model, batch, noise)
        if loss is not None:
            yield loss

    def expectation(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss | None:
        """The loss of the E-step: x encoded once, z drawn without a gradient, all prefixes scored in one pass, log p(x, z) without a gradient."""
        if self.objective is None:
            return None
        q = self.posterior(model, batch.x, batch.c)
        with torch.no_grad():
            z, b = self.behaviour(model, q, batch, noise)
            log_joint = model.log_joint(batch.x, z, batch.c)
        loss, log_q = self.objective.on_codes(q, z, log_joint, lambda log_q: self._log_b(z, log_q, b))
        metrics = {"e_loss": loss.detach(), "log_q": log_q.detach().mean(), "log_joint": log_joint.mean()}
        rows = self.behaviour.statistics(batch, z, log_joint)
        return Loss("E-step", loss, trainable(self), metrics, {"e_loss": loss.detach().expand(batch.size), **rows}, codes=z)

    def _log_b(self, z: Tensor, log_q: Tensor, b: CodeDistribution | None) -> Tensor:
        """Log b(z|x), computed only where it is needed and differs from log q."""
        if self.behaviour.on_policy or self.objective is None or not self.objective.weighs:
            return log_q.detach()
        if b is None:
            raise ValueError(
                f"{type(self.objective).__name__} weighs samples by the density of the behaviour policy, and {type(self.behaviour).__name__} has none: "
                "use it with LogVariance or TrajectoryBalance, which need no density"
            )
        with torch.no_grad():
            return b.log_prob(z)

    def maximisation(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """One update of theta."""
        with torch.no_grad():
            q = self.posterior(model, batch.x, batch.c)
            if self.m_step.from_behaviour and batch.z is None:
                batch = batch._replace(z=self.behaviour(model, q, batch, noise)[0])
        loss = self.m_step(model, q, batch, noise)
        return Loss("M-step", loss, trainable(model), {"m_loss": loss.detach()})

    def both(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """One update of theta and phi, on the sum of the two losses. A posterior that borrows the model's codebook lets it hear both, as in the ELBO."""
        m = None if self.m_step.from_behaviour else self.maximisation(model, batch, noise)
        e = list(self.e_step(model, batch, noise))
        m = m or self.maximisation(model, _with_codes(batch, *e), noise)
        value = m.value + sum(loss.value for loss in e)
        metrics = {key: metric for loss in (m, *e) for key, metric in loss.metrics.items()}
        statistics = {key: rows for loss in e for key, rows in loss.statistics.items()}
        return Loss("E+M-step", value, trainable(model, self), metrics, statistics)

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The schedule learns what the step's loss was, the behaviour which codes it saw."""
        self.schedule.update(self.step, statistics)
        self.behaviour.update(statistics)
        super().update(model, statistics)


def _with_codes(batch: Batch, *losses: Loss) -> Batch:
    """The batch with the codes that the losses learned from."""
    codes = [loss.codes for loss in losses if loss.codes is not None]
    return batch._replace(z=codes[-1]) if codes else batch


def _check(objective: Objective, behaviour: Behaviour, schedule: Schedule) -> None:
    if behaviour.samples < objective.least_samples:
        raise ValueError(
            f"{type(objective).__name__} compares samples of one datum with each other, so it needs at least {objective.least_samples}; "
            f"the behaviour draws {behaviour.samples}: set samples={objective.least_samples} or more"
        )
    if schedule.reads_loss and not objective.comparable:
        raise ValueError(
            f"{type(schedule).__name__} compares the E-step's loss with a threshold, but the value of {type(objective).__name__} says nothing about q, only "
            "its gradient does: use LogVariance, TrajectoryBalance with AmortisedLogZ, or a Period"
        )
    if objective.imitates and not behaviour.of_posterior:
        raise ValueError(
            f"{type(objective).__name__} learns the very distribution of its samples, and those of {type(behaviour).__name__} are not the posterior's: "
            "use Chains, Moved or FromPosterior(Exact()), or WakePhi, which weighs its samples"
        )
    if not objective.off_policy and not behaviour.on_policy:
        raise ValueError(objective.refusal.format(behaviour=type(behaviour).__name__))
    if not objective.off_policy and schedule.reads_loss:
        raise ValueError(
            f"with a scalar log Z the loss has the floor Var_x log p(x), whatever q: {type(schedule).__name__} would compare that with its threshold, not the "
            "quality of q; use AmortisedLogZ or LogVariance; TrajectoryBalance(..., faithful=True) repeats the published code knowingly"
        )
