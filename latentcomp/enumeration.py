"""All K^N codes: the exact answers, where there are few enough of them.

The decoder sees each code sequence once, whatever the number of images: with log p(x|z) bilinear in x and z, all images against all codes is one
matrix product, and the exact log p(x) of a whole test set costs little more than decoding K^N codes.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from latentcomp.model import LatentVariableModel

LIMIT = 2**30  # entries of a table: 4 GiB in float32


class TooManyCodes(ValueError):
    """There are too many code sequences to enumerate."""


def enumerable(cardinalities: Sequence[int], images: int = 1) -> bool:
    """Whether a table of all codes for this many images stays below the limit."""
    return math.prod(cardinalities) * images <= LIMIT


def all_codes(cardinalities: Sequence[int], device: torch.device | None = None) -> Int[Tensor, "M N"]:
    """All M = prod_i K_i code sequences, the first site varying slowest.

    Raises:
        TooManyCodes: says the count, the memory and the alternative.
    """
    checked(cardinalities, 1)
    return torch.cartesian_prod(*(torch.arange(k, device=device) for k in cardinalities)).view(-1, len(cardinalities))


def checked(cardinalities: Sequence[int], images: int) -> None:
    """Refuses to enumerate too much.

    Raises:
        TooManyCodes: says the count, the memory and the alternative.
    """
    if not enumerable(cardinalities, images):
        count = Decimal(math.prod(cardinalities))  # a grid of codes overflows a float
        raise TooManyCodes(
            f"{len(cardinalities)} sites with up to {max(cardinalities)} codes make {count:.3g} code sequences; a table of them for {images} image(s) "
            f"takes {4 * count * images / 2**30:.3g} GiB in float32, and the limit is {4 * LIMIT / 2**30:.3g} GiB. Pass fewer images at a time, use fewer "
            "sites or codes, or estimate instead: latentcomp.evaluate.importance.log_px with an amortised posterior"
        )


def log_joint_table(model: LatentVariableModel, x: Num[Tensor, "B C H W"], c: Tensor | None = None, chunk: int = 8192) -> Float[Tensor, "B M"]:
    """log p(x_b, z_m) of all images and all M codes, in nats, with a gradient where one is recorded.

    Args:
        model: p(x, z).
        x: the images.
        c: their conditions, or None.
        chunk: how many codes are decoded at once.

    Raises:
        TooManyCodes: says the count, the memory and the alternative.
    """
    model.check_shape(x)
    checked(model.cardinalities, len(x))
    codes = all_codes(model.cardinalities, x.device)
    log_px_z = [model.decode(model.codebook(part)).cross_log_prob(x) for part in codes.split(chunk)]
    return torch.cat(log_px_z, -1) + log_prior_table(model, codes, c)


def log_prior_table(model: LatentVariableModel, codes: Int[Tensor, "M N"], c: Tensor | None = None) -> Float[Tensor, "*B M"]:
    """log p(z_m), or log p(z_m | c_b), with a gradient where one is recorded."""
    prior = model.prior(c)
    if not prior.batch_shape:
        return prior.log_prob(codes)
    return prior.log_prob(codes.unsqueeze(1).expand(-1, prior.batch_shape[0], -1)).T
