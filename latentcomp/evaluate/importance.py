"""log p(x) by importance sampling, with what is needed to trust it.

With w_m = p(x, z_m) / r(z_m|x) and z_m ~ r, the mean of w over M samples is unbiased for p(x); its logarithm is a lower bound of log p(x) in
expectation (Burda et al., 2016). The proposal is a mixture,

    r(z|x) = (1 - a) q(z|x) + a p(z),      a = 0.1,

so w never exceeds p(x|z) / a, whatever q misses. Of M samples exactly a M are the prior's and the others q's, each weighted by the whole mixture (the
balance heuristic of Veach and Guibas, 1995): the mean stays unbiased, and how many come from where adds no variance.

Where the true code of an image is known, because the model dreamt the image, a second estimate that counts the true code among the samples is an upper
bound in expectation (Grosse et al., 2015; Sobolev and Vetrov, 2019): the two certify each other. The true code takes the place of one of the prior's samples
with the probability a p(z) / r(z|x), else of one of q's, so that the samples are distributed in proportion to their own estimate.

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
from latentcomp.evaluate.distinct import AT_ONCE, Distinct, distinct, log_likelihoods, parts
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior

PRIOR_SHARE = 0.1
PAIRS = 8192  # (image, sample) pairs held at once
DREAMS, PLACES = -1, -2  # keys of the dreams' own noise: a proposal learns from dreams of the keys 0, 1, ..., and a bound must not be tried on those


class Estimate(NamedTuple):
    """An estimate for each image.

    Attributes:
        log_px: the estimate of log p(x), in nats.
        stderr: its standard error, by the delta method: sd(w) / (mean(w) sqrt(M)).
        ess: the effective sample size (sum w)^2 / sum w^2, between 1 and M.
        pareto_k: the shape of the weights' tail (Vehtari et al., 2024); above 0.7 the estimate is not to be trusted.
        elbo: E_q[log p(x, z) - log q(z|x)] from q's samples alone, in nats.
    """

    log_px: Float[Tensor, " B"]
    stderr: Float[Tensor, " B"]
    ess: Float[Tensor, " B"]
    pareto_k: Float[Tensor, " B"]
    elbo: Float[Tensor, " B"]


class Draws(NamedTuple):
    """M samples for each of B images, of which the first are the prior's.

    Attributes:
        z: the codes.
        from_prior: how many of the M are the prior's.
        pairs: the distinct ones.
        log_p: log p(z) under the model's own prior.
        log_q: log q(z|x).
        log_r: log r(z|x), their density.
        log_likelihood: log p(x|z).
    """

    z: Int[Tensor, "M B N"]
    from_prior: int
    pairs: Distinct
    log_p: Float[Tensor, "M B"]
    log_q: Float[Tensor, "M B"]
    log_r: Float[Tensor, "M B"]
    log_likelihood: Float[Tensor, "M B"]

    @property
    def log_w(self) -> Float[Tensor, "M B"]:
        """log w under the model's own prior."""
        return self.log_likelihood + self.log_p - self.log_r

    def log_joint(self, p: CodeDistribution | None = None) -> Float[Tensor, "M B"]:
        """log p(x, z) under another prior p(z); None for the model's own, which is scored already."""
        return self.log_likelihood + (self.log_p if p is None else _log_prob(p, self.z, self.pairs))


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
    log_q: list[Tensor] = []
    log_r: list[Tensor] = []
    for part in parts(len(x), samples, chunk):
        condition = None if c is None else c[part]
        drawn = draws(model, proposal, x[part], samples, seed, part.start, condition, prior_share)
        for column, prior in zip(columns, priors, strict=True):
            column.append(drawn.log_joint(None if prior is model.prior else prior(condition)))
        log_q.append(drawn.log_q)
        log_r.append(drawn.log_r)
    q, r, some = torch.cat(log_q, -1), torch.cat(log_r, -1), _from_prior(samples, prior_share)
    return [_estimate(torch.cat(column, -1), q, r, some) for column in columns]


@torch.no_grad()
def bounds_on_dreams(
    model: LatentVariableModel,
    proposal: Posterior,
    images: int = 100,
    samples: int = 1000,
    seed: int = 0,
    chunk: int = PAIRS,
    dreamer: LatentVariableModel | None = None,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Stochastic lower and upper bounds of log p(x), in nats, on images that the model dreamt, whose true code is known.

    Both are exact in the limit of many samples; their mean difference says how far the estimate of :func:`log_px` can be off on data like these.

    Args:
        model: its prior is part of the mixture that the samples are drawn from.
        proposal: q(z|x).
        images: how many dreams.
        samples: M.
        seed: of dreams and samples.
        chunk: how many (image, sample) pairs are held at once.
        dreamer: the same decoder under another prior, which dreams and whose log p(x) is bounded, by the very estimator of :func:`log_px_under`; None for the
            model itself.
    """
    device, dreamer = next(model.decoder.parameters()).device, dreamer or model
    x, z = dreamer.sample(images, noise=Noise(seed, DREAMS, torch.arange(images, device=device)))
    lower, upper = [], []
    for part in parts(images, samples, chunk):
        drawn = draws(model, proposal, x[part], samples, seed, part.start)
        log_w = (drawn.log_w if dreamer is model else drawn.log_joint(dreamer.prior()) - drawn.log_r).double()
        true, share = z[part].unsqueeze(0), drawn.from_prior / samples
        log_p = model.prior().log_prob(true)
        log_r = _log_mixture(proposal(model, x[part]).log_prob(true), log_p, share)
        u = Noise(seed, PLACES, torch.arange(part.start, part.stop, device=device)).uniform((1,), ())
        place = torch.where(u < (log_p + math.log(share) - log_r).exp(), 0, samples - 1)
        lower.append(objectives.iwae(log_w))
        upper.append(objectives.iwae(log_w.scatter(0, place, (dreamer.log_joint(x[part], true) - log_r).double())))
    return torch.cat(lower), torch.cat(upper)


@torch.no_grad()
def log_weights(
    model: LatentVariableModel, proposal: Posterior, x: Tensor, samples: int, seed: int, first: int = 0, c: Tensor | None = None
) -> Float[Tensor, "M B"]:
    """log w_m for M samples of each image, from the mixture of the proposal and the prior; ``first`` is the position of x in its set."""
    return draws(model, proposal, x, samples, seed, first, c).log_w


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
        ValueError: the likelihood is an energy, the share is no probability, or there are too few samples for a mixture.
    """
    if not model.likelihood.normalised:
        raise ValueError(f"{type(model.likelihood).__name__} is an unnormalised energy: it has no likelihood in nats to estimate")
    q, p, some = proposal(model, x, c), model.prior(c), _from_prior(samples, prior_share)
    noise = Noise(seed, 0, torch.arange(first, first + len(x), device=x.device))
    z, log_q = q.sample_often_and_log_prob(samples - some, noise)
    if some:
        prior_codes = p.sample((some,) if p.batch_shape else (some, len(x)), noise)
        z, log_q = torch.cat([prior_codes, z]), torch.cat([q.log_prob(prior_codes), log_q])
    pairs = distinct(z, model.codebook.codes)
    log_p = _log_prob(p, z, pairs)
    log_r = _log_mixture(log_q, log_p, some / samples) if some else log_q
    return Draws(z, some, pairs, log_p, log_q, log_r, log_likelihoods(model, x, pairs))


def _from_prior(samples: int, share: float) -> int:
    """How many of M samples are the prior's: at least one, unless its share is nought."""
    if not 0 <= share < 1:
        raise ValueError(f"the prior's share of the mixture lies in [0, 1), got {share}")
    if samples < 1 + (share > 0):
        raise ValueError(f"a mixture wants at least two samples, one of q and one of the prior; got samples={samples}")
    return min(samples - 1, max(1, round(share * samples))) if share > 0 else 0


def _log_prob(p: CodeDistribution, z: Int[Tensor, "M B N"], pairs: Distinct) -> Float[Tensor, "M B"]:
    """log p(z), for a prior without a condition of each distinct pair once."""
    return p.log_prob(z) if p.batch_shape else torch.cat([p.log_prob(codes) for codes in pairs.z.split(AT_ONCE)])[pairs.inverse]


def _log_mixture(log_q: Float[Tensor, "M B"], log_p: Float[Tensor, "M B"], share: float) -> Float[Tensor, "M B"]:
    return torch.logaddexp(log_q + math.log1p(-share), log_p + math.log(share))


def _estimate(log_joint: Float[Tensor, "M B"], log_q: Float[Tensor, "M B"], log_r: Float[Tensor, "M B"], from_prior: int) -> Estimate:
    """The variance is that within the prior's samples and within q's; a part with one sample tells none."""
    log_w = (log_joint - log_r).double()
    w = log_w.softmax(0)  # w / (M mean(w))
    within = [len(part) * part.var(0) for part in (w[:from_prior], w[from_prior:]) if len(part) > 1]
    variance = sum(within, torch.zeros_like(w[0]))
    elbo = (log_joint - log_q)[from_prior:].double().mean(0)
    k = torch.stack([pareto_k(row) for row in log_w.T.cpu()]).to(log_w)  # on the host: each fit asks for its numbers many times
    return Estimate(objectives.iwae(log_w), variance.sqrt(), 1 / w.square().sum(0), k, elbo)


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
    try:
        k, _ = fit_generalized_pareto(tail[tail > 0])
    except ZeroDivisionError:  # of -k / b for the scale, where b = k / scale is nought: the tail is exponential
        k = 0.0
    return torch.as_tensor(k, dtype=log_w.dtype, device=log_w.device)
