"""The sleep phase: q learns from dreams, for which the true codes are known (Hinton et al., 1995).

(x, z) ~ p(x, z), and -log q(z|x) is the cross-entropy from the exact posterior of the dreamt x: no sampling noise of q, no weights, but images of the
model instead of the data.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise, coin


class Sleep(nn.Module):
    """One dream for each datum of a batch, under the datum's condition.

    Args:
        weight: multiplies the loss.
        probability: of a sleep phase after an E-step; a function of (seed, step).
    """

    def __init__(self, weight: float = 1.0, probability: float = 1.0) -> None:
        super().__init__()
        self.weight, self.probability = weight, probability

    def due(self, seed: int, step: int) -> bool:
        """Whether this step sleeps."""
        return coin(self.probability, seed, step)

    def forward(
        self,
        model: LatentVariableModel,
        posterior: Callable[[LatentVariableModel, Tensor, Tensor | None], CodeDistribution],
        batch: Batch,
        noise: Noise,
    ) -> Float[Tensor, ""]:
        """-weight mean log q(z|x) over dreams, with a gradient in phi.

        Raises:
            ValueError: the likelihood is an unnormalised energy, from which nothing can be dreamt.
        """
        with torch.no_grad():
            x, z = model.sample(batch.size, batch.c, noise)
        return self.weight * objectives.sleep_loss(posterior(model, x, batch.c).log_prob(z))
