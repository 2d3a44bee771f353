"""Many samples of one autoregressive distribution, with each distinct prefix computed once.

Thousands of samples of a peaked posterior begin alike: all begin with the empty prefix, and of 5,000 samples a few hundred prefixes differ halfway through.
Samples with the same prefix have the same conditional, so the network computes that of each distinct prefix, and each sample inverts it at a uniform number of
its own. The codes are those of a walk that computes a row for each sample.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from latentcomp.codes.distribution import inverse_cdf
from latentcomp.nn.sequence import SequenceNetwork

WORTH = 0.5  # with more prefixes than this share of the samples, looking for equal ones costs about what it saves


@torch.no_grad()
def shared_walk(
    network: SequenceNetwork, context: Num[Tensor, "B H"] | None, conditional: Callable[[Tensor], Tensor], u: Float[Tensor, "R N"]
) -> tuple[Int[Tensor, "R N"], Float[Tensor, " R"]]:
    """R samples and their log q, in nats.

    Args:
        network: gives the logits of z_i from z_<i and the context.
        context: of B data, sample r belongs to datum r modulo B; None for an unconditional distribution.
        conditional: from logits to log q of the codes of a site.
        u: a uniform number for each code.
    """
    data = 1 if context is None else len(context)
    cache, chosen, prefix = network.start(data, context), None, torch.arange(len(u), device=u.device) % data
    codes, log_q, alone = [], [], False
    for site, numbers in enumerate(u.unbind(-1)):
        log_p = conditional(network.advance(cache, site, chosen))[prefix]
        z = inverse_cdf(log_p, numbers.to(log_p.dtype))
        codes.append(z)
        log_q.append(log_p.gather(-1, z.unsqueeze(-1)).squeeze(-1))
        chosen = z
        if not alone and site + 1 < u.shape[-1]:
            before, chosen, prefix = _extended(prefix, z, log_p.shape[-1])
            cache.select(before)
            alone = len(before) == len(u)
    return torch.stack(codes, -1), torch.stack(log_q, -1).sum(-1)


def _extended(prefix: Int[Tensor, " R"], z: Int[Tensor, " R"], codes: int) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, " R"]]:
    """The distinct prefixes that are one code longer: which one each of them extends, by which code, and which of them each sample has.

    With too many of them, one for each sample.
    """
    keys, inverse = (prefix * codes + z).unique(return_inverse=True)
    if len(keys) > WORTH * len(z):
        return prefix, z, torch.arange(len(z), device=z.device)
    return keys // codes, keys % codes, inverse
