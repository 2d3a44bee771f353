"""What codes cost: -log p(z|c) of the codes of held-out images, in nats and bits, for each token and for each dimension of the image.

    nats = -log p(z|c) summed over the N codes; bits per token = nats / (N ln 2); bits per dimension = nats / (C H W ln 2).

The tables of Taming Transformers give nats per token. Bits per dimension here is the rate of a lossy code, and no likelihood of the image.
A likelihood of continuous pixels becomes comparable with discrete ones by :func:`bits_per_dimension`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch

from latentcomp.batch import Batch
from latentcomp.evaluate.fidelity import Mean
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.scores import code_nll, remark
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior


class Rate(NamedTuple):
    """Of one set of images, each a mean over images."""

    nats: Measure
    nats_per_token: Measure
    bits_per_token: Measure
    bits_per_dimension: Measure

    def measures(self, prefix: str = "code_") -> dict[str, Measure]:
        """By name, after ``prefix``."""
        return {prefix + name: measure for name, measure in self._asdict().items()}


@torch.no_grad()
def code_rate(model: LatentVariableModel, posterior: Posterior, batches: Iterable[Batch], prior: Prior | None = None, seed: int = 0, draws: int = 8) -> Rate:
    """The rate of the codes that the posterior gives, one draw for each image, under ``prior`` (None: the model's own).

    Args:
        model: its codes.
        posterior: gives them; modules are used as they are, so put them into evaluation mode first.
        batches: images, with conditions where the prior wants them; precomputed codes (``Batch.z``) are taken as they stand.
        prior: p(z|c); a masked one has only a bound, of which all numbers say so.
        seed: of the draws.
        draws: of the bound's estimate, for each image.
    """
    prior, nats, dimensions, reason = prior or model.prior, Mean(), math.prod(model.image_shape), None
    for batch in batches:
        z = batch.z if batch.z is not None else posterior(model, batch.x, batch.c).sample((), Noise(seed, 0, batch.positions))
        p = prior(batch.c)
        nats.update(code_nll(p, z, Noise(seed, 1, batch.positions), draws))
        reason = remark(p)
    measure = nats.measure("nats")
    return rate(measure if measure.reason else measure._replace(reason=reason), len(model.cardinalities), dimensions)


def rate(nats: Measure, tokens: int, dimensions: int) -> Rate:
    """The same number in all units.

    Args:
        nats: -log p(z), per image.
        tokens: N.
        dimensions: C H W.
    """
    return Rate(
        nats,
        _scaled(nats, 1 / tokens, "nats per token"),
        _scaled(nats, 1 / (tokens * math.log(2)), "bits per token"),
        _scaled(nats, 1 / (dimensions * math.log(2)), "bits per dimension"),
    )


def _scaled(measure: Measure, factor: float, unit: str) -> Measure:
    value, stderr = (None if number is None else number * factor for number in (measure.value, measure.stderr))
    return Measure(value, unit, stderr, measure.reason)


def bits_per_dimension(nats: float, dimensions: int, step: float = 1.0) -> float:
    """-log2 p(x) / (C H W) of images whose pixels lie ``step`` apart: 2 / 255 for bytes in [-1, 1], and 1 for pixels that are discrete already.

    A density at the midpoint times the step approximates a pixel's probability (Theis et al., 2016), hence nats / (dimensions ln 2) - log2 step.
    """
    return nats / (dimensions * math.log(2)) - math.log2(step)
