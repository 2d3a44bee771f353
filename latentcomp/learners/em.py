"""EM (Dempster, Laird and Rubin, 1977): the M-step alone, for posteriors that need no learning.

With the exact posterior and all codes weighed by it, one gradient of the M-step is that of the log-likelihood (Fisher's identity),

    grad log p(x) = E_{p(z|x)}[grad log p(x, z)],

so ``EM(Exact())`` descends -log p(x) itself: the oracle that other learners are held against. ``EM(Mode(Exact()), Greedy())`` is hard EM, whose optimum is
that of log max_z p(x, z). ``EM(Exact(), Sampled(S))`` is Monte-Carlo EM with exact samples.

Minimises: ``objectives.expected_log_joint`` (soft), ``objectives.m_step_loss`` (hard, sampled).
"""

from latentcomp.learners.alternating import Alternating
from latentcomp.phases.m_step import Marginalised, MStep
from latentcomp.phases.schedule import EachBatch
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.posterior import Posterior


class EM(Alternating):
    """Expectation-maximisation with a posterior that follows from the model.

    Args:
        posterior: by default the exact one.
        m_step: by default all codes, weighed by the posterior.
    """

    def __init__(self, posterior: Posterior | None = None, m_step: MStep | None = None) -> None:
        super().__init__(posterior or Exact(), schedule=EachBatch(), m_step=m_step or Marginalised())
