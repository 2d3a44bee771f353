"""Expected gradients without sampling: every tuple of codes, weighed by its probability."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from math import prod

import torch
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.table import TableCodes
from latentcomp.enumeration import all_codes
from latentcomp.learners.alternating import Alternating
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Exploring
from latentcomp.posteriors.posterior import Posterior
from tests.scenarios import brute_force_log_joint


class Given(Exploring):
    """Returns the codes it was told, as if its policy had drawn them; by default its policy is q."""

    codes: Tensor

    def __init__(self, samples: int = 2, epsilon: float = 0.0, temperature: float = 1.0) -> None:
        super().__init__(samples, epsilon, temperature)

    def forward(self, *_: object) -> tuple[Tensor, CodeDistribution | None]:
        """The codes ``(S, 1, N)``, and the policy."""
        return self.codes, self.policy(_[1])


NO_NOISE = Noise(0, 0, torch.arange(1))  # for what is told which codes to use


def tuples(b: CodeDistribution, samples: int) -> Iterator[tuple[Tensor, float]]:
    """All S-tuples of codes ``(S, 1, N)`` for one datum, with their probabilities under independent draws of b, whose batch is that datum."""
    codes, p = all_codes(b.cardinalities), b.table().detach().exp()[0].tolist()
    for rows in product(range(len(codes)), repeat=samples):
        yield codes[list(rows)].unsqueeze(1), prod(p[row] for row in rows)


def gradient(value: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The gradient as one vector, zero where a parameter has no part in the value."""
    parts = torch.autograd.grad(value, list(parameters), allow_unused=True, materialize_grads=True, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def expectation(x: Tensor, policy: Callable[[Tensor], CodeDistribution], samples: int, estimate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """E[estimate(image, codes)], S independent codes from the policy for each image, averaged over images: a sum over all tuples."""
    return torch.stack([weight * estimate(image, z) for image in x.split(1) for z, weight in tuples(policy(image), samples)]).sum(0) / len(x)


def expected_gradient(learner: Alternating, model: LatentVariableModel, x: Tensor, wanted: Sequence[nn.Parameter], update: int = 0) -> Tensor:
    """The expected gradient of one of a step's losses, when the learner's behaviour (a ``Given``) draws the codes."""

    def estimate(image: Tensor, z: Tensor) -> Tensor:
        learner.behaviour.codes = z
        return gradient(next(islice(learner.losses(model, Batch(image)), update, None)).value, wanted)

    return expectation(x, lambda image: learner.behaviour.policy(learner.posterior(model, image)), learner.behaviour.samples, estimate)


def log_q_table(q: CodeDistribution) -> Tensor:
    """log q(z_m|x_b) of all codes ``(B, M)``, with a gradient."""
    codes = all_codes(q.cardinalities).unsqueeze(1)
    return q.log_prob(codes.expand(-1, *q.batch_shape, -1)).T


def log_ratios(model: LatentVariableModel, posterior: Posterior, x: Tensor) -> tuple[Tensor, Tensor]:
    """log q(z|x) with a gradient in phi, and l = log q(z|x) - log p(x, z), both ``(B, M)``."""
    log_q = log_q_table(posterior(model, x))
    return log_q, log_q - brute_force_log_joint(model, x).detach()


def kl(model: LatentVariableModel, posterior: Posterior, x: Tensor) -> Tensor:
    """The mean of KL(q(z|x) || p(z|x)) up to the constant log p(x), with a gradient in phi."""
    log_q, residual = log_ratios(model, posterior, x)
    return (log_q.exp() * residual).sum(-1).mean()


def elbo(model: LatentVariableModel, posterior: Posterior, x: Tensor) -> Tensor:
    """The mean of E_q[log p(x, z) - log q(z|x)], with a gradient in theta and phi."""
    log_q = log_q_table(posterior(model, x))
    return (log_q.exp() * (brute_force_log_joint(model, x) - log_q)).sum(-1).mean()


class TablePosterior(Posterior):
    """A free logit for each image and code: it can be the exact posterior. Images are told apart by their value, one of a few."""

    def __init__(self, images: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.images, self.logits = images, nn.Parameter(logits.clone())

    def rows(self, x: Tensor) -> Tensor:
        """The place of each image among the few."""
        return (x.flatten(1).unsqueeze(1) == self.images.flatten(1)).all(-1).long().argmax(-1)

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> CodeDistribution:
        """Softmax of the images' rows."""
        return TableCodes(self.logits[self.rows(x)], model.cardinalities)
