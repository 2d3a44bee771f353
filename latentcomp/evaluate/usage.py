"""Which codes are used."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Usage(NamedTuple):
    """How a set of images uses the codebook.

    Attributes:
        counts: ``(N, K)`` how often each site takes each code.
        perplexity: exp of the entropy of the codes pooled over sites: between 1 and K.
        used: the share of the K codes that appear at all.
    """

    counts: Int[Tensor, "N K"]
    perplexity: float
    used: float


def usage(z: Int[Tensor, "... N"], codes: int) -> Usage:
    """Code usage over a whole set (not averaged over batches, which would understate it).

    Args:
        z: codes of all images, any number of samples each.
        codes: K.
    """
    sites = z.shape[-1]
    cells = (z + codes * torch.arange(sites, device=z.device)).flatten()  # one bin for each site and code: a one-hot table of a large codebook would not fit
    counts = torch.bincount(cells, minlength=sites * codes).view(sites, codes)
    share: Float[Tensor, " K"] = counts.sum(0).double() / counts.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return Usage(counts, float(entropy.exp()), float((share > 0).double().mean()))
