"""VIMCO (Mnih and Rezende, 2016): the bound of S samples, in theta and phi at once.

    L = log (1/S) sum_s p(x, z_s) / q(z_s|x),   z_s ~ q;       E[L] <= log p(x), the closer the larger S          (Burda et al., 2016)

The score function's signal for each sample is what it adds to L over a guess from the other samples, so credit is given to each sample by itself, and
nothing is learned to reduce the variance. The second part of the gradient passes through L.

Minimises: ``objectives.vimco_loss``. Optimum: that of E[L]; for theta between the ELBO (S = 1) and log p(x), for phi the exact posterior where the family
has it. Unlike reweighted wake-sleep, one function for both; like it, the larger S, the weaker the signal for q (Rainforth et al., 2018).
"""

import torch

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.learner import Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import MultiSample
from latentcomp.phases.m_step import ImportanceWeighted
from latentcomp.phases.schedule import Schedule, Together
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class Vimco(Alternating):
    """The multi-sample bound.

    Args:
        posterior: any stochastic posterior.
        samples: S, at least two.
        schedule: ``Together()`` by default, theta and phi from the same samples; else the M-step draws its own, with the same expected gradient.
        sleep: the sleep phase, or None.
    """

    def __init__(self, posterior: Posterior, samples: int = 4, schedule: Schedule | None = None, sleep: Sleep | None = None) -> None:
        super().__init__(posterior, MultiSample(), OnPolicy(samples), schedule or Together(), ImportanceWeighted(samples), sleep)

    def both(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """One update of theta and phi: x encoded once, each sample decoded once."""
        q = self.posterior(model, batch.x, batch.c)
        with torch.no_grad():
            z, _ = self.behaviour(model, q, batch, noise)
        log_q, log_joint = q.log_prob(z), model.log_joint(batch.x, z, batch.c)
        loss, bound = objectives.vimco_loss(log_q, log_joint), objectives.iwae((log_joint - log_q).detach()).mean()
        metrics = {"bound": bound, "log_q": log_q.detach().mean(), "log_joint": log_joint.detach().mean()}
        return Loss("E+M-step", loss, trainable(model, self), metrics, {"e_loss": loss.detach().expand(batch.size)})
