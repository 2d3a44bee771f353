"""GFlowNet-EM (Hu et al., 2023): an amortised sampler of p(z|x) for the E-step, which may learn from samples that it did not draw itself.

The posterior is a GFlowNet over partial sequences: it generates z site by site in a fixed order, so every state has one parent, P_B = 1, and the
trajectory's probability is q(z|x). The reward is p(x, z). At the optimum of the balance

    log Z(x) + log q(z|x) = log p(x, z)   for all z,                                 (trajectory balance)

q is the exact posterior and log Z(x) = log p(x). The log-variance form asks the same without Z: that the residual be constant in z for each x.

Minimises: ``objectives.log_variance_loss`` (default) or ``objectives.trajectory_balance_loss``; asleep ``objectives.sleep_loss``; in the M-step
``objectives.m_step_loss`` or another of ``phases.m_step``. Optimum of the E-step: the exact posterior, within what the network can represent; for any
behaviour policy of full support. On-policy, the gradient is exactly twice leave-one-out REINFORCE's: exploration is what sets the method apart.
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.behaviour import Behaviour
from latentcomp.phases.e_step import LogVariance, Objective
from latentcomp.phases.m_step import MStep
from latentcomp.phases.schedule import Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class GFlowNetEM(Alternating):
    """EM with a GFlowNet for the E-step.

    Args:
        posterior: ``Autoregressive``, or any stochastic posterior.
        objective: ``LogVariance()`` by default, or ``TrajectoryBalance(AmortisedLogZ(...))``.
        behaviour: ``OnPolicy()`` by default, or ``Exploring(...)``.
        schedule: an E-step and an M-step on each batch by default, or ``Period`` or ``Threshold``.
        m_step: ``Sampled()`` by default, or ``Greedy``, ``ImportanceWeighted``.
        sleep: the sleep phase, or None.

    Raises:
        ValueError: a scalar log Z together with an off-policy behaviour or a threshold.
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
        super().__init__(posterior, objective or LogVariance(), behaviour, schedule, m_step, sleep)
