"""Mean-field coordinate ascent: q(i, j|x) = q(i|x) q(j|x), whose ELBO no sweep lowers (Bishop, 2006, section 10.1).

With one factor fixed the other's optimum is exp E[log p(x, i, j)], normalised. Here, with the mean petal o(x) = sum_j q(j|x) o_j and the mean cluster
m(x) = sum_i q(i|x) mu_i,

    q(i|x) ~ exp(-||x - o(x) - mu_i||^2 / (2 s^2)),     q(j|x) ~ exp(-||x - m(x) - o_j||^2 / (2 s^2)):

the variance of the fixed factor is a constant of the other. Each point remembers its q(j|x) from one EM iteration to the next.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.mixture.data import PETALS
from experiments.mixture.model import Mixtures
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior

INITIAL = 17  # the key of a stream of noise


class MeanField(Posterior):
    """Sweeps from what each point remembers; rows must be all points of all runs, in the same order at every call.

    Args:
        sweeps: updates of q(i|x) and then q(j|x) at each call.
    """

    petal: Tensor

    def __init__(self, sweeps: int = 1) -> None:
        super().__init__()
        if sweeps < 1:
            raise ValueError(f"mean-field ascent makes at least one sweep, got sweeps={sweeps}")
        self.sweeps = sweeps
        self.register_buffer("petal", torch.empty(0))

    @torch.no_grad()
    def begin(self, index: Tensor, like: Tensor) -> None:
        """q(j|x) proportional to exp(u), u uniform in (0, 1), as in the published notebook; ``index`` keys the noise of each row."""
        self.petal = Noise(0, INITIAL, index).uniform((), (PETALS,), like.dtype).log_softmax(-1)

    @torch.no_grad()
    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> FactorisedCodes:
        """q after the sweeps. What is remembered does not change: the learner's ``update`` does that."""
        if not isinstance(model, Mixtures) or len(self.petal) != len(x):
            raise ValueError(f"MeanField remembers {len(self.petal)} points of a mixture, but was given {len(x)}: call begin with their positions first")
        points, petal = model.by_run(x.flatten(1)), model.by_run(self.petal)
        for _ in range(self.sweeps):
            cluster = log_softmin(points - petal.exp() @ model.decoder.petals, model.means, model.scale)
            petal = log_softmin(points - cluster.exp() @ model.means, model.decoder.petals.expand_as(model.means), model.scale)
        return FactorisedCodes(torch.stack([cluster, petal], -2).flatten(0, 1))


def log_softmin(x: Float[Tensor, "R B 2"], means: Float[Tensor, "R K 2"], scale: float) -> Float[Tensor, "R B K"]:
    """log of exp(-||x_b - m_k||^2 / (2 s^2)), normalised over k."""
    return (-(x.unsqueeze(-2) - means.unsqueeze(-3)).square().sum(-1) / (2 * scale**2)).log_softmax(-1)
