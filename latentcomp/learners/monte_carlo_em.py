"""Monte-Carlo EM (Wei and Tanner, 1990) with persistent Markov chains, and a posterior that learns from them (Markovian score climbing; JSA).

E-step: a few steps of a kernel that leaves p(z|x) invariant, on chains kept for each datum; theta and q take no part in it, but q may propose. q learns by
cross-entropy from the chains' codes, so that there is a posterior for data without a chain: KL(p(z|x) || q), as in Naesseth et al. (2020) and Ou and Song
(2020). M-step: -log p(x, z) of the same codes. Where the chains have arrived, its expected gradient is that of -log p(x), by Fisher's identity.

Minimises: ``objectives.sleep_loss`` on the chains' codes, and ``objectives.m_step_loss``. Optimum: theta that of log p(x), q the exact posterior, both as
far as the chains mix: a chain that never leaves its mode teaches that mode.
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.chains import Chains
from latentcomp.phases.e_step import CrossEntropy
from latentcomp.phases.m_step import Remembered
from latentcomp.phases.schedule import Schedule
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class MonteCarloEM(Alternating):
    """EM on the codes of Markov chains.

    Args:
        posterior: any stochastic posterior; it begins the chains, and evaluation judges it.
        chains: for the whole training set, such as ``Chains(Gibbs(), size, sites)``.
        schedule: when to do E-steps and M-steps; an M-step without an E-step before it moves the chains for itself and does not keep where they went.
        sleep: the sleep phase, or None.
    """

    def __init__(self, posterior: Posterior, chains: Chains, schedule: Schedule | None = None, sleep: Sleep | None = None) -> None:
        super().__init__(posterior, CrossEntropy(), chains, schedule, Remembered(), sleep)
