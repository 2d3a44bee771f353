"""Gumbel-softmax, the one estimator here that cannot be enumerated: its noise is continuous. Mean and variance come from many draws."""

import torch
from torch import Tensor

from experiments.gradients.estimators import Cost, Estimator, Moments
from experiments.gradients.problem import Problem
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.learners.gumbel_softmax import Relaxation
from latentcomp.noise import Noise
from latentcomp.phases.anneal import Constant


class Relaxed(Estimator):
    """The gradient of the relaxed negative ELBO in q's logits, at one temperature.

    Args:
        temperature: tau.
        hard: decode the one-hot code, and take the relaxed gradient.
        draws: for each image; the bias is known within about 1 / sqrt(draws) of the noise of one sample, which is taken off its square.
    """

    def __init__(self, temperature: float = 1.0, hard: bool = False, draws: int = 2000) -> None:
        super().__init__("reverse")
        self.relaxation, self.draws = Relaxation(Constant(temperature), hard), draws

    def moments(self, problem: Problem, samples: int) -> Moments:
        """From the draws of one sample; of S independent ones the mean is the same, and the variance an S-th."""
        every = [self._image(problem, image) for image in range(len(problem.x))]
        g = torch.stack(every)  # (B, draws, F)
        variance = g.var(1).sum(-1)
        return Moments(g.mean(1), variance / samples, variance / self.draws)

    def _image(self, problem: Problem, image: int) -> Tensor:
        logits = problem.logits[image].expand(self.draws, -1, -1).clone().requires_grad_()
        q, model = FactorisedCodes(logits), problem.model
        y = self.relaxation(q, 0, Noise(0, image, torch.arange(self.draws)))
        log_likelihood = model.decode(model.codebook.mix(y)).log_prob(problem.x[image : image + 1].expand(self.draws, -1, -1, -1))
        prior = FactorisedCodes(torch.zeros_like(logits[:1]))
        (g,) = torch.autograd.grad((q.kl(prior) - problem.power * log_likelihood).sum(), logits)
        return g.flatten(1)

    def cost(self, samples: int) -> Cost:
        """The gradient passes back through the decoder to the code."""
        return Cost(samples, samples)
