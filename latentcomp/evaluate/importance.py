"""log p(x) by importance sampling, with what is needed to trust it.

With w_m = p(x, z_m) / r(z_m|x) and z_m ~ r, the mean of w over M samples is unbiased for p(x); its logarithm is a lower bound of log p(x) in
expectation (Burda et al., 2016). The proposal is a mixture,

    r(z|x) = (1 - a) q(z|x) + a p(z),      a = 0.1,

so w never exceeds p(x|z) / a, whatever q misses. Where the true code of an image is known, because the model dreamt the image, a second estimate
that counts the true code among the samples is an upper bound in expectation (Grosse et al., 2015; Sobolev and Vetrov, 2019): the two certify each other.

The image is encoded once, and each distinct code is decoded once. One set of samples serves any number of priors over the same decoder.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp import objectives
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.evaluate.distinct import log_likelihoods, parts
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior

PRIOR_SHARE = 0.1
PAIRS = 8192  # (image, sample) pairs held at once


class Estimate(NamedTuple):
    """An estimate for each image.

    Attributes:
        log_px: the estimate of log p(x), in nats.
        stderr: its standard error, by the delta method: sd(w) / (mean(w) sqrt(M)).
        ess: the effective sample size (sum w)^2 / sum w^2, between 1 and M.
        pareto_k: the shape of the weights' tail (Vehtari et al., 2024); above 0.7 the estimate is not to be trusted.
    """

    log_px: Float[Tensor, " B"]
    stderr: Float[Tensor, " B"]
    ess: Float[Tensor, " B"]
    pareto_k: Float[Tensor, " B"]


class Draws(NamedTuple):
    """M samples of the mixture for each of B images.

    Attributes:
        z: the codes.
        log_r: log r(z|x), their density.
        log_likelihood: log p(x|z).
        decoded: how many images were decoded for it.
    """

    z: Int[Tensor, "M B N"]
    log_r: Float[Tensor, "M B"]
    log_likelihood: Float[Tensor, "M B"]
    decoded: int


@torch.no_grad()
def log_px(
    model: LatentVariableModel,
    proposal: Posterior,
    x: Tensor,
    c: Tensor | None = None,
    samples: int = 1000,
    seed: int = 0,
    chunk: int = PAIRS,
    prior_share: float = PRIOR_SHARE,
) -> Estimate:
    """The importance-weighted estimate of log p(x) for each image.

    Args:
        model: p(x, z).
        proposal: q(z|x), best fitted to this frozen model (:func:`latentcomp.evaluate.fitting.fit_proposal`).
        x: the images.
        c: their conditions, or None.
        samples: M.
        seed: of the samples.
        chunk: how many (image, sample) pairs are held at once.
        prior_share: a, the prior's share of the mixture; 0 for the plain estimator of q, whose weights have no bound.

    Raises:
        ValueError: images the model cannot explain, or a likelihood that is an energy.
    """
    return log_px_under(model, [model.prior], proposal, x, c, samples, seed, chunk, prior_share)[0]


@torch.no_grad()
def log_px_under(
    model: LatentVariableModel,
    priors: Sequence[Prior],
    proposal: Posterior,
    x: Tensor,
    c: Tensor | None = None,
    samples: int = 1000,
    seed: int = 0,
    chunk: int = PAIRS,
    prior_share: float = PRIOR_SHARE,
) -> list[Estimate]:
    """The estimates of :func:`log_px` under several priors of one decoder, from the same samples, decoded once; the mixture holds the model's own prior."""
    model.check(x)
    columns: list[list[Tensor]] = [[] for _ in priors]
    for part in parts(len(x), samples, chunk):
        condition = None if c is None else c[part]
        drawn = draws(model, proposal, x[part], samples, seed, part.start, condition, prior_share)
        for column, prior in zip(columns, priors, strict=True):
            column.append(drawn.log_likelihood + prior(condition).log_prob(drawn.z) - drawn.log_r)
    return [_estimate(torch.cat(column, -1)) for column in columns]


@torch.no_grad()
def bounds_on_dreams(
    model: LatentVariableModel, proposal: Posterior, images: int = 100, samples: int = 1000, seed: int = 0, chunk: int = PAIRS
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Stochastic lower and upper bounds of log p(x), in nats, on images that the model dreamt, whose true code is known.

    Both are exact in the limit of many samples; their mean difference says how far the estimate of :func:`log_px` can be off on data like these.
    """
    device = next(model.decoder.parameters()).device
    x, z = model.sample(images, noise=Noise(seed, 1, torch.arange(images, device=device)))
    lower, upper = [], []
    for part in parts(images, samples, chunk):
        log_w = log_weights(model, proposal, x[part], samples, seed, part.start)
        q, p, true = proposal(model, x[part]), model.prior(), z[part].unsqueeze(0)
        log_true = model.log_joint(x[part], true) - _log_mixture(q, p, true, PRIOR_SHARE)
        lower.append(objectives.iwae(log_w))
        upper.append(objectives.iwae(torch.cat([log_true, log_w[1:]])))
    return torch.cat(lower), torch.cat(upper)


@torch.no_grad()
def log_weights(
    model: LatentVariableModel, proposal: Posterior, x: Tensor, samples: int, seed: int, first: int = 0, c: Tensor | None = None
) -> Float[Tensor, "M B"]:
    """log w_m for M samples of each image, from the mixture of the proposal and the prior; ``first`` is the position of x in its set."""
    drawn = draws(model, proposal, x, samples, seed, first, c)
    return drawn.log_likelihood + model.prior(c).log_prob(drawn.z) - drawn.log_r


@torch.no_grad()
def draws(
    model: LatentVariableModel,
    proposal: Posterior,
    x: Tensor,
    samples: int,
    seed: int,
    first: int = 0,
    c: Tensor | None = None,
    prior_share: float = PRIOR_SHARE,
) -> Draws:
    """M samples of the mixture for each image, scored; ``first`` is the position of x in its set.

    Raises:
        ValueError: the likelihood is an energy, or the share is no probability.
    """
    if not model.likelihood.normalised:
        raise ValueError(f"{type(model.likelihood).__name__} is an unnormalised energy: it has no likelihood in nats to estimate")
    if not 0 <= prior_share < 1:
        raise ValueError(f"the prior's share of the mixture lies in [0, 1), got {prior_share}")
    q, p = proposal(model, x, c), model.prior(c)
    noise = Noise(seed, 0, torch.arange(first, first + len(x), device=x.device))
    if prior_share == 0:
        z, log_r = q.sample_and_log_prob((samples,), noise)
    else:
        from_prior = noise.uniform((samples,), ()) < prior_share
        prior_codes = p.sample((samples,) if p.batch_shape else (samples, len(x)), noise)
        z = torch.where(from_prior.unsqueeze(-1), prior_codes, q.sample((samples,), noise))
        log_r = _log_mixture(q, p, z, prior_share)
    return Draws(z, log_r, *log_likelihoods(model, x, z))


def _log_mixture(q: CodeDistribution, p: CodeDistribution, z: Int[Tensor, "M B N"], share: float) -> Float[Tensor, "M B"]:
    return torch.logaddexp(q.log_prob(z) + math.log1p(-share), p.log_prob(z) + math.log(share))


def _estimate(log_w: Float[Tensor, "M B"]) -> Estimate:
    log_w = log_w.double()
    w = log_w.softmax(0)
    variance = (w * len(w)).var(0)  # of w / mean(w)
    return Estimate(objectives.iwae(log_w), (variance / len(w)).sqrt(), 1 / w.square().sum(0), torch.stack([pareto_k(row) for row in log_w.T]))


def pareto_k(log_w: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """The shape k of a generalised Pareto distribution fitted to the largest weights, by the estimator that ships with Pyro (Zhang and Stephens, 2009).

    The tail holds min(M / 5, 3 sqrt(M)) weights. Weights that are all equal there have no tail: k is -inf.
    """
    from pyro.ops.stats import fit_generalized_pareto

    size = int(min(len(log_w) / 5, 3 * math.sqrt(len(log_w))))
    w = (log_w - log_w.max()).exp().sort().values
    tail = w[-size:] - w[-size - 1] if 0 < size < len(w) else w[:0]
    if len(tail) < 5 or tail.max() <= 1e-12 or (tail > 0).sum() < 5:
        return log_w.new_tensor(-math.inf)
    k, _ = fit_generalized_pareto(tail[tail > 0])
    return torch.as_tensor(k, dtype=log_w.dtype, device=log_w.device)
