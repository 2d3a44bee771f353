"""Autoregressive codes without their tails: top-k (Fan et al., 2018) and nucleus, or top-p, sampling (Holtzman et al., 2020).

Each conditional keeps its k most probable codes, and of those the fewest whose probabilities add up to p; the rest get probability zero and the kept ones
are normalised. It is a distribution like any other: what it draws, ``log_prob`` scores.
"""

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.sequence import SequenceNetwork


def top_k_logits(logits: Float[Tensor, "*rows K"], k: int) -> Float[Tensor, "*rows K"]:
    """All but the k largest become -inf; those equal to the k-th stay, and k >= K keeps all."""
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def top_p_logits(logits: Float[Tensor, "*rows K"], p: float) -> Float[Tensor, "*rows K"]:
    """All become -inf but the fewest codes, the most probable first, whose probabilities reach p; the best code always stays."""
    ordered, order = logits.sort(descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill((before >= p) & (torch.arange(logits.shape[-1], device=logits.device) > 0), -math.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


class TruncatedCodes(AutoregressiveCodes):
    """A network's codes at a temperature, truncated.

    Args:
        network: gives the logits of z_i from z_<i and the context.
        context: ``(B, H)`` features or ``(B, M)`` codes that the network reads; None for an unconditional distribution.
        temperature: divides the logits, before anything is cut.
        top_k: how many codes each conditional keeps; None for all.
        top_p: the probability that the kept codes reach; None for all.

    Raises:
        ValueError: the temperature is not positive, k lies outside 1..K, or p lies outside (0, 1].
    """

    def __init__(
        self,
        network: SequenceNetwork,
        context: Num[Tensor, "B H"] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is how many codes stay, so it must be at least 1; got {top_k}. Pass None to keep all")
        if top_k is not None and top_k > max(network.cardinalities):
            raise ValueError(f"top_k={top_k} codes cannot stay of V={max(network.cardinalities)}: pass V or fewer, or None to keep all")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p is a probability, so it must lie in (0, 1]; got {top_p}. Pass None to keep all codes")
        super().__init__(network, context, 0.0, temperature)
        self._top_k, self._top_p = top_k, None if top_p == 1 else top_p
        self._truncates = self._top_k is not None or self._top_p is not None

    def _log_p(self, logits: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows K"]:
        log_p = super()._log_p(logits)
        if self._top_k is not None:
            log_p = top_k_logits(log_p, self._top_k)
        if self._top_p is not None:
            log_p = top_p_logits(log_p, self._top_p)
        return log_p.log_softmax(-1) if self._truncates else log_p

    def _under(self, context: Tensor) -> "TruncatedCodes":
        return TruncatedCodes(self.network, context, self._exploration[1], self._top_k, self._top_p)

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> AutoregressiveCodes:
        """Refused: a behaviour policy must reach every code.

        Raises:
            TypeError: always; says what to use.
        """
        raise TypeError("truncated codes are for showing samples: a behaviour policy must reach every code, so explore the untruncated distribution")
