"""ELBOs that train a guide by the learners of this package, within Pyro's own loops.

``loss`` is what Pyro calls the loss of an ELBO: its negative, in nats, summed over data, estimated on samples of q itself. What is descended is another
number: the learner's E-step loss in the guide's parameters, its M-step loss in the model's, and its sleep phase's, where it has one. The three gradients
do not mix: the model never learns from the codes that an exploring E-step tries, nor the guide from the M-step.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Behaviour, Exploring, OnPolicy
from latentcomp.phases.e_step import Objective, WakePhi
from latentcomp.phases.m_step import ImportanceWeighted, MStep
from latentcomp.phases.schedule import Schedule, Together
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior
from latentcomp.pyro.guide import GFlowNetGuide
from latentcomp.pyro.layout import UnsupportedModel
from latentcomp.pyro.program import Program
from latentcomp.train import NonFiniteLoss

Model = Callable[..., Any]


class LearnerELBO(ELBO):
    """What the ELBOs share: a program, a learner for its guide, and Pyro's interface.

    Args:
        num_particles: S, how many samples for each datum.
    """

    def __init__(self, num_particles: int = 4) -> None:
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self._learners: WeakKeyDictionary[GFlowNetGuide, Alternating] = WeakKeyDictionary()

    @abstractmethod
    def learner(self, posterior: Posterior) -> Alternating:
        """The learner that trains the guide's posterior."""

    def _get_trace(self, model: Model, guide: Any, args: Any, kwargs: Any) -> Any:
        """A pair of traces, as Pyro's own tools ask for them."""
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)

    def loss(self, model: Model, guide: GFlowNetGuide, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO in nats: summed over data, times the plate's scale, a mean over particles of q itself."""
        with torch.no_grad():
            program, x = _program(model, guide, args, kwargs)
            q = guide.posterior(program, x)
            z, log_q = q.sample_and_log_prob((self.num_particles,), Noise.fresh(program.size, x.device))
            elbo = (program.log_joint(x, z) - log_q).mean(0).sum() * program.scale
            return float(-elbo - program.outside)

    def differentiable_loss(self, model: Model, guide: GFlowNetGuide, *args: Any, **kwargs: Any) -> Tensor:
        """The surrogate that is descended, summed over data as Pyro's losses are.

        Raises:
            UnsupportedModel: see :class:`latentcomp.pyro.program.Program`.
            NonFiniteLoss: it is nan or infinite; no memory was written.
        """
        program, x = _program(model, guide, args, kwargs)
        learner = self._learner(guide)
        learner.seed = int(torch.randint(2**62, ()))  # Pyro's seed is torch's
        losses = list(learner.losses(program, Batch(x, index=program.index)))
        for loss in losses:
            if not torch.isfinite(loss.value):
                raise NonFiniteLoss(f"the loss of the {loss.term} is {float(loss.value.detach())}: lower the learning rate, or look at these data")
        rows = {key: row for loss in losses for key, row in loss.statistics.items()}
        learner.update(program, rows)
        return sum((loss.value for loss in losses), torch.zeros(())) * program.size * program.scale - program.outside

    def loss_and_grads(self, model: Model, guide: GFlowNetGuide, *args: Any, **kwargs: Any) -> float:
        """The surrogate's value, after its gradients have been added to those of all parameters: what ``SVI.step`` calls."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _learner(self, guide: GFlowNetGuide) -> Alternating:
        if guide not in self._learners:
            self._learners[guide] = self.learner(guide.posterior).to(next(guide.posterior.parameters()).device)
        learner = self._learners[guide]
        held = {id(parameter) for parameter in guide.parameters()}
        lost = [name for name, parameter in learner.named_parameters() if id(parameter) not in held]
        if lost:
            raise ValueError(f"no optimiser would find {', '.join(lost)}: make that head part of the guide before, as in guide.head = PrefixFlow(...)")
        if learner.sleep is not None and not guide.dreams:
            raise UnsupportedModel("asleep the posterior reads dreams, but features= reads the model's arguments: drop sleep, or let the guide read the sites")
        return learner


class GFlowNetELBO(LearnerELBO):
    """GFlowNet-EM (Hu et al., 2023) for a Pyro model and its ``GFlowNetGuide``.

    Args:
        objective: of the E-step; ``LogVariance()`` by default, grouped by datum; or ``TrajectoryBalance(guide.log_z)``.
        behaviour: what draws the E-step's samples; ``Exploring(num_particles, epsilon=0.05)`` by default.
        m_step: which codes the model learns from; ``ImportanceWeighted(num_particles)`` by default, whose samples are q's own.
        sleep: the sleep phase, or None.
        num_particles: S, how many samples for each datum.
        schedule: which steps a call makes; ``Together()`` by default. ``OnlyE()`` spares a program without parameters the M-step.

    Raises:
        ValueError: the parts do not fit together; see ``GFlowNetEM``.
    """

    def __init__(
        self,
        objective: Objective | None = None,
        behaviour: Behaviour | None = None,
        m_step: MStep | None = None,
        sleep: Sleep | None = None,
        num_particles: int = 4,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(num_particles)
        self._parts = (objective, behaviour or Exploring(num_particles, 0.05), schedule or Together(), m_step or ImportanceWeighted(num_particles), sleep)

    def learner(self, posterior: Posterior) -> GFlowNetEM:
        """The learner of ``latentcomp.GFlowNetEM``, both steps in one update."""
        return GFlowNetEM(posterior, *self._parts)


class ReweightedWakeSleep(LearnerELBO):
    """Reweighted wake-sleep (Bornschein and Bengio, 2015) with weights normalised for each datum; Pyro's own forms one weight for a whole minibatch.

    Args:
        wake: the wake phase for the guide; None leaves it to sleep.
        sleep: the sleep phase; ``Sleep()`` by default.
        num_particles: S, how many samples for each datum.
        schedule: which steps a call makes; ``Together()`` by default.
    """

    def __init__(self, wake: WakePhi | None = None, sleep: Sleep | None = None, num_particles: int = 4, schedule: Schedule | None = None) -> None:
        super().__init__(num_particles)
        self._parts = (wake or WakePhi(), OnPolicy(num_particles), schedule or Together(), ImportanceWeighted(num_particles), sleep or Sleep())

    def learner(self, posterior: Posterior) -> WakeSleep:
        """The learner of ``latentcomp.WakeSleep``."""
        return WakeSleep(posterior, *self._parts)


def _program(model: Model, guide: GFlowNetGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, Tensor]:
    """The program at these arguments and what the guide reads, the guide's parameters shown to Pyro."""
    if not isinstance(guide, GFlowNetGuide):
        raise TypeError(f"this ELBO trains a GFlowNetGuide, got {type(guide).__name__}: make one with GFlowNetGuide(model)")
    program, x = guide.program(model, args, kwargs)
    guide.register()
    return program, x
