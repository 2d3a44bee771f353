"""The M-step of GFlowNet-EM's published code: decoder and prior learn from different codes, each with a mean of its own.

The decoder's loss is the binary cross-entropy per pixel of greedy codes (``greedy_prob`` 1) or of samples; the prior's, where it is learned, the
cross-entropy per site of a second draw, which is never greedy. Greedy codes are hard EM's: they do not ascend the ELBO.
"""

import math

from jaxtyping import Float
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.m_step import MStep


class PublishedMStep(MStep):
    """-mean log p(x|z) / P - mean log p(z') / N, with P pixels and N sites; z greedy or drawn, z' drawn.

    Args:
        greedy: whether the decoder learns from greedy codes.
    """

    def __init__(self, greedy: bool = True) -> None:
        super().__init__()
        self.greedy = greedy

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """The sum of both losses; a uniform prior's is a constant."""
        z = q.mode if self.greedy else q.sample((), noise)
        loss = -model.log_likelihood(batch.x, z).mean() / math.prod(batch.x.shape[1:])
        if not any(parameter.requires_grad for parameter in model.prior.parameters()):
            return loss
        return loss - model.prior(batch.c).log_prob(q.sample((), noise)).mean() / len(model.cardinalities)
