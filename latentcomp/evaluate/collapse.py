"""Collapse: codes that fall out of use, and posteriors that become sure of one code, seen while a run can still be saved."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latentcomp.codes.point import PointCodes
from latentcomp.evaluate.usage import usage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior


class CollapseWarning(UserWarning):
    """Code usage falls, or the posterior's entropy vanishes."""


class Health(NamedTuple):
    """How a posterior uses the codes.

    Attributes:
        perplexity: of the codes of all images and sites, from 1 to K.
        used: the share of the K codes that are used at all.
        entropy: the mean of H(q(z|x)) in nats, estimated from samples; None for a posterior that is a point by construction.
    """

    perplexity: float
    used: float
    entropy: float | None


@torch.no_grad()
def health(model: LatentVariableModel, posterior: Posterior, x: Tensor, samples: int = 8) -> Health:
    """Measured on images ``(B, C, H, W)``, the same draws at every call; networks are in evaluation mode meanwhile, so that no running moments move."""
    with _evaluating(model, posterior):
        q = posterior(model, x)
        z = q.sample((samples,), Noise(0, 0, torch.arange(len(x), device=x.device)))
    uses = usage(z, model.codebook.codes)
    return Health(uses.perplexity, uses.used, None if isinstance(q, PointCodes) else -float(q.log_prob(z).mean()))


@contextlib.contextmanager
def _evaluating(*networks: nn.Module) -> Iterator[None]:
    """Each module is in the mode that it was in, afterwards."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def detect_collapse(now: Health, best: Health | None = None, least_share: float = 0.5, least_entropy: float = 0.01) -> Health:
    """Warns of a collapse.

    Args:
        now: the posterior's health.
        best: the best of earlier looks, which this function returned; None at the first.
        least_share: warn when perplexity falls below this share of the best.
        least_entropy: warn when the entropy falls below this number of nats, after it was above.

    Returns:
        The best so far, for the next call.
    """
    if best is None:
        return now
    if now.perplexity < least_share * best.perplexity:
        _warn(
            f"code usage falls: perplexity {now.perplexity:.1f}, after {best.perplexity:.1f}; {now.used:.0%} of the codes are used. "
            "Give the codebook a restart, lower the learning rate, or raise the commitment weight"
        )
    if now.entropy is not None and best.entropy is not None and now.entropy < least_entropy <= best.entropy:
        _warn(
            f"the posterior's entropy vanishes: {now.entropy:.2g} nats, after {best.entropy:.2g}: it is sure of one code for each image. Explore (Exploring), "
            "weigh the M-step's codes (ImportanceWeighted), or lower the learning rate of phi"
        )
    entropies = [h.entropy for h in (now, best) if h.entropy is not None]
    return Health(max(now.perplexity, best.perplexity), max(now.used, best.used), max(entropies, default=None) if entropies else None)


def _warn(message: str) -> None:
    warnings.warn(message, CollapseWarning, stacklevel=3)
