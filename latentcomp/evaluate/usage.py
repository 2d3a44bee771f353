"""Which codes are used."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.nn.prefix import refuse_unless


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

    Raises:
        ValueError: a code lies outside 0..K-1 (on an accelerator the device's own assertion says so).
    """
    tally = Tally(z.shape[-1], codes)
    tally.update(z)
    return tally.usage()


def _summary(counts: Int[Tensor, "N K"]) -> Usage:
    share: Float[Tensor, " K"] = counts.sum(0).double() / counts.sum()
    entropy = -torch.special.xlogy(share, share).sum()
    return Usage(counts, float(entropy.exp()), float((share > 0).double().mean()))


class Tally:
    """Code usage over any number of batches: it keeps the counts alone.

    Args:
        sites: N.
        codes: K.
    """

    def __init__(self, sites: int, codes: int) -> None:
        self.counts = torch.zeros(sites, codes, dtype=torch.long)

    def update(self, z: Int[Tensor, "*B N"]) -> None:
        """Takes in the codes of a batch.

        Raises:
            ValueError: a code lies outside 0..K-1 (on an accelerator the device's own assertion says so).
        """
        sites, codes = self.counts.shape
        refuse_unless(((z >= 0) & (z < codes)).all(), z, f"codes must lie in 0..{codes - 1} (K={codes}): count them with the K of their own codebook")
        z = z.reshape(-1, sites)
        flat = z + codes * torch.arange(sites, device=z.device)
        self.counts = self.counts.to(z.device) + flat.flatten().bincount(minlength=sites * codes).view(sites, codes)

    def usage(self) -> Usage:
        """Of all that was taken in."""
        return _summary(self.counts)
