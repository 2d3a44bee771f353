"""How probable codes are, for whoever fits, selects or judges a prior: the one place where their negative log-likelihood is taken."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.masked import MaskedCodes
from latentcomp.noise import Noise

BOUND = "an upper bound: the mean over orders of the sites, estimated without bias"


@torch.no_grad()
def code_nll(p: CodeDistribution, z: Int[Tensor, "B N"], noise: Noise, draws: int = 8) -> Float[Tensor, " B"]:
    """-log p(z|c) of each row in nats; of a masked prior, which has no such number, its bound, estimated from so many draws of ``noise``."""
    if not isinstance(p, MaskedCodes):
        return -p.log_prob(z)
    return -p.bound(z.expand(draws, *z.shape), noise).mean(0)


def remark(p: CodeDistribution) -> str | None:
    """What must stand beside such a number: that it is a bound; None for one that is exact."""
    return BOUND if isinstance(p, MaskedCodes) else None
