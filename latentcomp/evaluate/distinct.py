"""log p(x|z) of many samples, each distinct code of an image decoded once.

Samples of a peaked posterior repeat themselves: of 5,000 codes of one image often only a few dozen differ. Decoding is by far the dearest part of an
importance-weighted estimate, so the distinct (image, code) pairs are found first, decoded once, and their numbers handed back to all samples.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.model import LatentVariableModel

AT_ONCE = 256  # pairs; more would only push the activations of decoder and prior out of a CPU's cache: at C = 32, 512 take a third longer each


class Distinct(NamedTuple):
    """The distinct pairs among samples ``(M, B, N)``.

    Attributes:
        z: ``(U, N)`` their codes.
        image: ``(U,)`` the row of x that each belongs to, ascending.
        inverse: ``(M, B)`` the pair of each sample.
    """

    z: Int[Tensor, "U N"]
    image: Int[Tensor, " U"]
    inverse: Int[Tensor, "M B"]


def distinct(z: Int[Tensor, "M B N"], codes: int) -> Distinct:
    """The distinct (image, code) pairs of samples.

    Args:
        z: M samples for each of B images.
        codes: K.
    """
    m, b, n = z.shape
    rows = torch.arange(b, device=z.device).expand(m, b)
    if b * codes**n < 2**63:  # a pair fits into one number, which sorts many times faster than rows
        radix = torch.tensor([codes**i for i in reversed(range(n))], device=z.device)
        keys, inverse = ((z * radix).sum(-1) + rows * codes**n).unique(return_inverse=True)
        return Distinct(keys.unsqueeze(-1) // radix % codes, keys // codes**n, inverse)
    pairs, inverse = torch.cat([rows.unsqueeze(-1), z], -1).flatten(0, 1).unique(dim=0, return_inverse=True)
    return Distinct(pairs[:, 1:], pairs[:, 0], inverse.view(m, b))


@torch.no_grad()
def log_likelihoods(model: LatentVariableModel, x: Tensor, pairs: Distinct, at_once: int = AT_ONCE) -> Float[Tensor, "M B"]:
    """log p(x_b | z_mb) in nats.

    Args:
        model: p(x, z).
        x: B images.
        pairs: M samples for each.
        at_once: how many images are decoded at once.
    """
    parts = [model.log_likelihood(x[image], codes) for image, codes in zip(pairs.image.split(at_once), pairs.z.split(at_once), strict=True)]
    return torch.cat(parts)[pairs.inverse]


def parts(images: int, samples: int, pairs: int) -> list[slice]:
    """Slices of images such that images times samples stay below ``pairs``."""
    size = max(1, pairs // samples)
    return [slice(first, min(first + size, images)) for first in range(0, math.ceil(images / size) * size, size)]
