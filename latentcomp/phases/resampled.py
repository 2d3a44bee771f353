"""Sampling importance resampling (Rubin, 1988) in the M-step: as near to grad log p(x) as S weighted samples, at nearly the price of one.

z_1, ..., z_S ~ q are weighed by w_s = p(x, z_s) / q(z_s|x) without a gradient, one of them is drawn with probability w_s / sum_t w_t, and theta descends
-log p(x, z) at it alone. In expectation over that draw the gradient is the self-normalised one of ``ImportanceWeighted``; a decoder's backward pass costs
two to three times its forward pass, so S forward passes and one backward pass replace S of each.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution, inverse_cdf
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.m_step import Sampled


class Resampled(Sampled):
    """One of S samples of q, drawn by its importance weight.

    Args:
        samples: S, how many for each datum.
    """

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> Float[Tensor, ""]:
        """-mean log p(x, z) at the code that was drawn."""
        with torch.no_grad():
            z, log_q = q.sample_and_log_prob((self.samples,), noise)
            log_w = (model.log_joint(batch.x, z, batch.c) - log_q).log_softmax(0)
            chosen = inverse_cdf(log_w.T, noise.uniform((), (), log_w.dtype))
            z = z[chosen, torch.arange(batch.size, device=z.device)]
        return objectives.m_step_loss(model.log_joint(batch.x, z, batch.c))
