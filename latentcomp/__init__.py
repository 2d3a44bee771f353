"""latentcomp: one discrete latent-variable model, many posterior learners, one loop, one fair yardstick.

Every arrow of the graphical model is a module that returns a distribution: ``prior()`` is p(z), ``model.decode(e)`` is p(x|z), ``posterior(model, x)`` is
q(z|x). A learner turns them into losses; one loop, ``fit``, descends them; ``compare`` judges every learner by the same likelihood.
"""

from latentcomp._version import __version__
from latentcomp.batch import Batch
from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.data import Batches, Split, digits, mnist
from latentcomp.evaluate.compare import Comparison, compare
from latentcomp.evaluate.training import Budget
from latentcomp.learners.em import EM
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.learners.learner import Learner, Loss
from latentcomp.learners.memoised_wake_sleep import MemoisedWakeSleep
from latentcomp.learners.monte_carlo_em import MonteCarloEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vimco import Vimco
from latentcomp.learners.vqgan import VQGAN
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.learners.warm_start import WarmStart
from latentcomp.model import LatentVariableModel
from latentcomp.train import NonFiniteLoss, fit

__all__ = [
    "EM", "VQGAN", "Batch", "Batches", "Budget", "Codebook", "Comparison", "EMACodebook", "GFlowNetEM", "GumbelSoftmax", "LatentVariableModel",
    "Learner", "Loss", "MemoisedWakeSleep", "MonteCarloEM", "NonFiniteLoss", "Reinforce", "Relaxation", "SecondStage", "Split", "StraightThrough", "Vimco",
    "WakeSleep", "WarmStart", "__version__", "compare", "digits", "fit", "mnist", "second_stage",
]  # fmt: skip
