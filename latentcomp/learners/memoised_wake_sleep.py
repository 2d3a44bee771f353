"""Memoised wake-sleep (Hewitt, Le and Tenenbaum, 2020): for each datum the best codes found so far, and all learning from them.

A memory holds the M best distinct codes of each datum; q proposes new ones. Together they make a set of codes, and the posterior truncated to it,
w_m = p(x, z_m) / sum p(x, z), stands for p(z|x): with it theta descends -log sum_m p(x, z_m), an upper bound of -log p(x) that each better code lowers,
and q descends its cross-entropy. No density of q enters, so a poor q costs only discoveries: also the E-step of truncated and evolutionary variational EM
(Luecke and Eggert, 2010; Guiraud et al., 2020), whose proposals are mutations; here a kernel may add them.

Minimises: ``objectives.truncated_loss`` in phi and in theta. Optimum: those of log p(x) and KL(p(z|x) || q) truncated to the set, exact if it holds all codes
that matter.
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.behaviour import Behaviour, Mixed, OnPolicy
from latentcomp.phases.e_step import Truncated
from latentcomp.phases.m_step import Remembered
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class MemoisedWakeSleep(Alternating):
    """Learning from a memory of the best codes.

    Args:
        posterior: any stochastic posterior.
        memory: for the whole training set; all of its codes are decoded at every visit.
        proposals: what looks for new codes, ``OnPolicy(2)`` by default; ``Exploring``, or ``Moved`` codes, as well.
        schedule: when to do E-steps and M-steps.
        sleep: the sleep phase, or None; the original trains q on dreams too.
    """

    def __init__(
        self,
        posterior: Posterior,
        memory: Memory,
        proposals: Behaviour | None = None,
        schedule: Schedule | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        behaviour = Mixed([proposals or OnPolicy(2), Replay(memory, memory.capacity)])
        super().__init__(posterior, Truncated(), behaviour, schedule, Remembered(weighted=True), sleep)
