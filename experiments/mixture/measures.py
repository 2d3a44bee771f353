"""What the mixture table says of each run."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.mixture.data import truth
from experiments.mixture.model import Mixtures
from experiments.mixture.published import CONSTANT
from latentcomp.evaluate.exact import exact, log_px
from latentcomp.evaluate.protocol import Measure
from latentcomp.posteriors.posterior import Posterior

NEAR = 0.25  # a cluster is found where a learned mean lies this near to the true one: one standard deviation of a petal


class Numbers(NamedTuple):
    """One number for each run and point ``(R, n)``, in nats.

    Attributes:
        log_px: log p(x), with the normaliser of the Gaussian.
        elbo: E_q[log p(x, z) - log q(z|x)].
        kl_q_p: KL(q || p(z|x)), summed over the sixteen codes.
    """

    log_px: Float[Tensor, "R n"]
    elbo: Float[Tensor, "R n"]
    kl_q_p: Float[Tensor, "R n"]


def numbers(model: Mixtures, posterior: Posterior, x: Float[Tensor, "B 1 1 2"]) -> Numbers:
    """By enumeration; ``x`` holds all points of all runs."""
    result = exact(model, posterior, x)
    return Numbers(*(model.by_run(values) for values in (result.log_px, result.elbo, result.kl_q_p)))


def found(means: Float[Tensor, "*R K 2"]) -> Bool[Tensor, "*R"]:
    """Whether each true cluster has a learned mean within 0.25."""
    return (torch.cdist(truth().expand(*means.shape[:-2], -1, -1), means.double()).amin(-1) < NEAR).all(-1)


def measures(result: Numbers, means: Float[Tensor, "R K 2"], x: Float[Tensor, "n 1 1 2"]) -> list[dict[str, Measure]]:
    """The numbers of each run, means over points with their standard errors.

    The last is the paired difference to the true means: both are likelihoods of the same points, so its standard error is that of a difference.
    """
    at_truth = log_px(Mixtures(truth().unsqueeze(0)), x.double())
    return [
        {
            "log_px": _mean(log_p),
            "log_px_notebook": _mean(log_p + CONSTANT),
            "above_truth": _mean(log_p - at_truth),
            "found": Measure(float(success), "share"),
            "kl_q_p": _mean(kl),
            "exact_nll": _mean(-log_p),
            "own_bound": _mean(-elbo),
        }
        for log_p, elbo, kl, success in zip(*result, found(means), strict=True)
    ]


def _mean(values: Tensor) -> Measure:
    values = values.double()
    return Measure(float(values.mean()), "nats", float(values.std() / math.sqrt(len(values))))
