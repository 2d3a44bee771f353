"""Exact answers, by enumeration of all K^N codes.

For a posterior q and the exact posterior p(z|x),

    -E_q[log p(x, z) - log q(z|x)] = -log p(x) + KL(q(z|x) || p(z|x)):

the negative own bound exceeds the exact negative log-likelihood by how wrong the posterior is. A learner's own bound therefore judges its posterior and
its model at once; the exact likelihood judges the model alone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from latentcomp import objectives
from latentcomp.enumeration import log_joint_table
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior


class Exact(NamedTuple):
    """One number for each image, in nats (total variation: in [0, 1]).

    Attributes:
        log_px: log p(x).
        elbo: E_q[log p(x, z) - log q(z|x)], the own bound.
        kl_q_p: KL(q(z|x) || p(z|x)) = log_px - elbo, computed on its own.
        kl_p_q: KL(p(z|x) || q(z|x)); infinite where q is a point mass.
        tv: total variation between the two.
    """

    log_px: Float[Tensor, " B"]
    elbo: Float[Tensor, " B"]
    kl_q_p: Float[Tensor, " B"]
    kl_p_q: Float[Tensor, " B"]
    tv: Float[Tensor, " B"]


@torch.no_grad()
def log_px(model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> Float[Tensor, " B"]:
    """log p(x) = log sum_z p(x, z), in nats.

    Raises:
        TooManyCodes: there are too many codes to enumerate; says the alternative.
        ValueError: images the model cannot explain.
    """
    _require_nats(model)
    model.check(x)
    return log_joint_table(model, x, c).logsumexp(-1)


@torch.no_grad()
def exact(model: LatentVariableModel, posterior: Posterior, x: Tensor, c: Tensor | None = None) -> Exact:
    """The exact likelihood, and how far the posterior is from the exact one, in float64 sums.

    Raises:
        TooManyCodes: there are too many codes to enumerate; says the alternative.
        ValueError: images the model cannot explain.
    """
    _require_nats(model)
    model.check(x)
    log_joint = log_joint_table(model, x, c).double()
    log_p, log_q = log_joint.log_softmax(-1), posterior(model, x, c).table().double()
    return Exact(
        log_joint.logsumexp(-1),
        objectives.elbo(log_q, log_joint),
        objectives.kl(log_q, log_p),
        objectives.kl(log_p, log_q),
        objectives.total_variation(log_p, log_q),
    )


def _require_nats(model: LatentVariableModel) -> None:
    if not model.likelihood.normalised:
        raise ValueError(f"{type(model.likelihood).__name__} is an unnormalised energy: its sums are no likelihood and have no place in a column of nats")
