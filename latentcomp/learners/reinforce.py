"""REINFORCE (Williams, 1992; NVIL: Mnih and Gregor, 2014) with the leave-one-out baseline of Kool et al. (2019).

grad_phi KL(q || p(z|x)) = E_q[(log q - log p(x, z) - b) grad log q], estimated from S samples of each x, where each sample's baseline b is the mean of the
others. Off-policy samples are weighed by q / b, which keeps the estimate unbiased and lets its variance grow.

Minimises: ``objectives.leave_one_out_loss``; its optimum is that of the ELBO.
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.behaviour import Behaviour
from latentcomp.phases.e_step import LeaveOneOut
from latentcomp.phases.m_step import MStep
from latentcomp.phases.schedule import Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class Reinforce(Alternating):
    """The score-function estimator.

    Args:
        posterior: any stochastic posterior.
        behaviour: what draws the samples, at least two for each datum.
        schedule: when to do E-steps and M-steps.
        m_step: which codes theta learns from.
        sleep: the sleep phase, or None.
    """

    def __init__(
        self,
        posterior: Posterior,
        behaviour: Behaviour | None = None,
        schedule: Schedule | None = None,
        m_step: MStep | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        super().__init__(posterior, LeaveOneOut(), behaviour, schedule, m_step, sleep)
