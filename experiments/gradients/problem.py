"""Where gradients are compared: a trained model with few codes, its posterior sharpened or flattened to a given entropy, and a q that is nearly right.

p_b(x, z) = p(x|z)^b p(z), with b such that the posterior's entropy, averaged over the images, is what was asked for: b = 1 is the model, b < 1 one whose
decoder is less sure. q has independent sites; its logits are those of p_b's marginals with Gaussian noise of standard deviation 1/2, as of a network that
lags behind.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.enumeration import all_codes
from latentcomp.model import LatentVariableModel

LAG = 0.5  # standard deviation of the noise in q's logits


class Problem(NamedTuple):
    """All numbers of B images and M codes.

    Attributes:
        model: p(x, z).
        x: the images.
        power: b.
        codes: every z.
        log_joint: log p_b(x, z).
        logits: of q's sites.
    """

    model: LatentVariableModel
    x: Tensor
    power: float
    codes: Int[Tensor, "M N"]
    log_joint: Float[Tensor, "B M"]
    logits: Float[Tensor, "B N K"]

    @property
    def log_p(self) -> Float[Tensor, "B M"]:
        """The exact posterior."""
        return self.log_joint.log_softmax(-1)

    @property
    def log_q(self) -> Float[Tensor, "B M"]:
        """Of every code."""
        return FactorisedCodes(self.logits).table()

    @property
    def scores(self) -> Float[Tensor, "B M F"]:
        """The gradient of log q(z|x) in the logits, F = N K."""
        hot = torch.nn.functional.one_hot(self.codes, self.logits.shape[-1])
        return (hot - self.logits.softmax(-1).unsqueeze(1)).flatten(2)

    def wanted(self, aim: str) -> Float[Tensor, "B F"]:
        """What an estimator aims at: the gradient in q's logits of KL(q || p) ("reverse") or KL(p || q) ("forward"), or that of -log p(x) in every
        log p(x, z) ("likelihood").
        """
        p, q = self.log_p.exp(), self.log_q.exp()
        if aim == "likelihood":
            return -p
        weights = q * (self.log_q - self.log_p) if aim == "reverse" else -p
        return torch.einsum("bm,bmf->bf", weights, self.scores)


@torch.no_grad()
def problem(model: LatentVariableModel, x: Tensor, entropy: float, seed: int) -> Problem:
    """The problem at a mean posterior entropy, in nats.

    Raises:
        ValueError: no power gives this entropy, which lies between nought and that of the prior.
    """
    codes = all_codes(model.cardinalities)
    z = codes.unsqueeze(1).expand(-1, len(x), -1)
    likelihood, prior = model.log_likelihood(x, z).T, model.prior().log_prob(codes)
    power = _power(likelihood, prior, entropy)
    log_joint = power * likelihood + prior
    log_p, logits = log_joint.log_softmax(-1), []
    for site, k in enumerate(model.cardinalities):
        logits.append(torch.stack([log_p[:, codes[:, site] == code].logsumexp(-1) for code in range(k)], -1))
    noise = torch.randn(len(x), len(logits), logits[0].shape[-1], generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    return Problem(model, x, power, codes, log_joint, torch.stack(logits, 1) + LAG * noise)


def _power(likelihood: Float[Tensor, "B M"], prior: Float[Tensor, " M"], entropy: float) -> float:
    """By bisection of the logarithm: the flatter the likelihood, the larger the entropy."""

    def mean_entropy(power: float) -> float:
        log_p = (power * likelihood + prior).log_softmax(-1)
        return float(-(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1).mean())

    low, high = -14.0, 7.0  # log b
    if not mean_entropy(math.exp(high)) < entropy < mean_entropy(math.exp(low)):
        raise ValueError(f"no power of the likelihood gives the posterior an entropy of {entropy} nats: take less than the prior's")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_entropy(math.exp(middle)) > entropy else (low, middle)
    return float(math.exp(middle))
