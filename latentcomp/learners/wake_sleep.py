"""Wake-sleep (Hinton et al., 1995) and reweighted wake-sleep (Bornschein and Bengio, 2015).

Asleep, q learns -log q(z|x) on dreams (x, z) ~ p: the forward KL(p(z|x) || q), but averaged over the model's images instead of the data's. Awake, theta
learns from codes of q. Reweighted wake-sleep adds a wake phase for phi: -sum_s w_s log q(z_s|x) on data, with w_s ~ p(x, z_s) / q(z_s|x) normalised for
each datum (not over the batch: Le et al., 2019), and weighs the codes of the M-step likewise.

Minimises: ``objectives.sleep_loss``; ``objectives.wake_phi_loss`` where asked for; ``objectives.weighted_m_step_loss``. Optimum of both E-steps: the
exact posterior; the wake phase's estimate is biased for finite S.
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.behaviour import Behaviour
from latentcomp.phases.e_step import Objective, WakePhi
from latentcomp.phases.m_step import ImportanceWeighted, MStep
from latentcomp.phases.schedule import Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class WakeSleep(Alternating):
    """Wake-sleep.

    Args:
        posterior: any stochastic posterior.
        wake: the wake phase for phi, ``WakePhi()`` for reweighted wake-sleep; None for sleep alone, as in 1995.
        behaviour: what draws the samples of the wake phase.
        schedule: when to do E-steps and M-steps.
        m_step: ``ImportanceWeighted(4)`` by default.
        sleep: ``Sleep()`` by default.

    Raises:
        ValueError: a schedule that reads the wake phase's loss, without a wake phase.
    """

    def __init__(
        self,
        posterior: Posterior,
        wake: WakePhi | None = None,
        behaviour: Behaviour | None = None,
        schedule: Schedule | None = None,
        m_step: MStep | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        objective: Objective | None = wake
        if wake is None and schedule is not None and schedule.reads_loss:
            raise ValueError(f"{type(schedule).__name__} reads the loss of the wake phase, and there is none: pass wake=WakePhi(), or use a Period")
        super().__init__(posterior, objective, behaviour, schedule, m_step or ImportanceWeighted(4), sleep or Sleep())
