"""Gumbel-softmax (Jang et al., 2017; Maddison et al., 2017): one relaxed code, through which a gradient passes.

y_i = softmax((log q(z_i|x) + g_i) / tau) with Gumbel noise g goes to a one-hot vector as tau goes to 0; its embedding is sum_k y_ik e_k. The loss is

    -log p(x | e(y)) + KL(q(z|x) || p(z)),                                          (relaxed negative ELBO)

in theta and phi at once. The second term is exact, a sum over sites; the first is biased for the discrete model, the less the smaller tau, while its
variance grows. The straight-through form decodes the one-hot code of the largest y and takes the gradient of y.

Optimum: the ELBO's as tau -> 0. Needs a posterior and a prior of independent sites.
"""

from torch import Tensor
from torch.nn.functional import one_hot

from latentcomp.batch import Batch
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.learner import Loss, trainable
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.objectives import straight_through
from latentcomp.phases.anneal import Annealed, Exponential
from latentcomp.phases.behaviour import Behaviour
from latentcomp.phases.m_step import MStep
from latentcomp.phases.schedule import Schedule, Together
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.posterior import Posterior


class Relaxation:
    """How codes are relaxed.

    Args:
        temperature: tau as a function of the step.
        hard: decode the one-hot code and take the relaxed gradient (straight-through).
    """

    def __init__(self, temperature: Annealed | None = None, hard: bool = False) -> None:
        self.temperature, self.hard = temperature or Exponential(), hard

    def __call__(self, q: FactorisedCodes, step: int, noise: Noise) -> Tensor:
        """Y ``(B, N, K)``."""
        y = q.relaxed(self.temperature(step), noise)
        return straight_through(y, one_hot(y.argmax(-1), y.shape[-1]).to(y.dtype)) if self.hard else y


class GumbelSoftmax(Alternating):
    """The relaxed ELBO.

    Args:
        posterior: ``Factorised`` or ``SoftmaxDistance``.
        relaxation: temperature and hardness.
        behaviour: its policy is what is relaxed: q itself, or q flattened for exploration; one sample for each datum.
        schedule: ``Together()`` by default, one update of theta and phi; else the M-step is that of the discrete model.
        m_step: of the other schedules.
        sleep: the sleep phase, or None.
    """

    def __init__(
        self,
        posterior: Posterior,
        relaxation: Relaxation | None = None,
        behaviour: Behaviour | None = None,
        schedule: Schedule | None = None,
        m_step: MStep | None = None,
        sleep: Sleep | None = None,
    ) -> None:
        super().__init__(posterior, None, behaviour, schedule or Together(), m_step, sleep)
        self.relaxation = relaxation or Relaxation()

    def expectation(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """The relaxed negative ELBO, with a gradient in phi and in theta."""
        q = self.posterior(model, batch.x, batch.c)
        p = model.prior(batch.c)
        policy = self.behaviour.policy(q)
        if not (isinstance(policy, FactorisedCodes) and isinstance(p, FactorisedCodes)):
            raise TypeError(
                f"GumbelSoftmax relaxes independent sites and needs KL(q || p(z)) in closed form; got q={type(q).__name__}, p(z)={type(p).__name__}. "
                "Use a Factorised or SoftmaxDistance posterior and a Uniform prior, and fit an autoregressive prior afterwards"
            )
        y = self.relaxation(policy, self.step, noise)
        p_x = model.decode(model.codebook.mix(y))
        reconstruction = -p_x.log_prob(batch.x).mean()
        kl = q.kl(p).mean()
        loss = reconstruction + kl
        metrics = {"e_loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach()}
        return Loss("E-step", loss, trainable(self), metrics, {"e_loss": loss.detach().expand(batch.size)}, p_x.mean)

    def both(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Loss:
        """One update of theta and phi on the same relaxed loss."""
        (loss,) = self.e_step(model, batch, noise)
        return loss._replace(term="E+M-step", learns=trainable(model, self))
