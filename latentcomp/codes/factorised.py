"""Independent sites: q(z) = prod_i q(z_i)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution, checked_exploration, flattened, inverse_cdf
from latentcomp.noise import Noise


class FactorisedCodes(CodeDistribution):
    """Independent categorical sites.

    Args:
        logits: ``(B, N, K)`` or ``(N, K)``; K is the largest cardinality, and a logit of -inf marks a code that does not exist.
        cardinalities: K_i of each site; by default K everywhere. Codes beyond a site's cardinality get probability zero.
        context: ``(B, H)`` features of x, for heads.
    """

    def __init__(self, logits: Float[Tensor, "*B N K"], cardinalities: Sequence[int] | None = None, context: Float[Tensor, "B H"] | None = None) -> None:
        n, k = logits.shape[-2:]
        cardinalities = tuple(cardinalities or (k,) * n)
        if cardinalities != (k,) * n:
            exists = torch.arange(k, device=logits.device) < torch.tensor(cardinalities, device=logits.device).unsqueeze(-1)
            logits = logits.masked_fill(~exists, -math.inf)
        self.logits = logits
        self.log_p = flattened(logits, 0.0, 1.0)
        self._context = context
        super().__init__(logits.shape[:-2], cardinalities)

    @property
    def _device(self) -> torch.device:
        return self.logits.device

    @property
    def context(self) -> Float[Tensor, "B H"]:
        """``(B, H)`` features of x."""
        return super().context if self._context is None else self._context

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        u = noise.uniform(leading, self.event_shape, self.log_p.dtype)
        return inverse_cdf(self.log_p.expand(*leading, rows, *self.log_p.shape[-2:]), u)

    @torch.no_grad()
    def redraw(self, z: Int[Tensor, "*rows N"], cut: Int[Tensor, "*rows"], noise: Noise) -> tuple[Int[Tensor, "*rows N"], Float[Tensor, "*rows"]]:
        """Sites from the cut on, drawn anew."""
        behind = torch.arange(z.shape[-1], device=z.device) >= cut.unsqueeze(-1)
        new = torch.where(behind, self._draw(z.shape[:-2], z.shape[-2], noise), z)
        return new, self.log_prob(new)

    def conditionals(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N K"]:
        """log q of each site's codes: the same, whatever came before."""
        return self.log_p.expand(*z.shape, self.log_p.shape[-1])

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """log q(z_i): at each site the same, whatever came before."""
        return self.conditionals(z).gather(-1, z.unsqueeze(-1)).squeeze(-1)

    def select(self, rows: Int[Tensor, " R"]) -> "FactorisedCodes":
        """The distributions of these data."""
        context = None if self._context is None else self._context[rows]
        return FactorisedCodes(self.logits[rows] if self.batch_shape else self.logits, self.cardinalities, context)

    @property
    def mode(self) -> Int[Tensor, "*B N"]:
        """The best code of each site."""
        return self.logits.argmax(-1)

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "FactorisedCodes":
        """Every site flattened by the temperature, then mixed with the uniform distribution."""
        checked_exploration(epsilon, temperature)
        return FactorisedCodes(flattened(self.logits, epsilon, temperature), self.cardinalities, self._context)

    def table(self) -> Float[Tensor, "*B M"]:
        """log q of all codes: the outer sum over sites."""
        table = self.log_p.new_zeros(*self.batch_shape, 1)
        for site, k in enumerate(self.cardinalities):
            table = (table.unsqueeze(-1) + self.log_p[..., site, None, :k]).flatten(-2)
        return table

    def relaxed(self, temperature: Float[Tensor, ""] | float, noise: Noise) -> Float[Tensor, "B N K"]:
        """A Concrete sample softmax((log q + g) / temperature), with a gradient (Jang et al., 2017; Maddison et al., 2017)."""
        gumbel = noise.gumbel((), self.log_p.shape[-2:], self.log_p.dtype)
        return ((self.log_p + gumbel) / temperature).softmax(-1)

    def kl(self, p: "FactorisedCodes") -> Float[Tensor, "*B"]:
        """KL(q || p) in nats, a sum over sites."""
        difference = torch.where(self.log_p == -math.inf, 0.0, self.log_p - p.log_p)
        return (self.log_p.exp() * difference).sum((-2, -1))


def uniform_codes(cardinalities: Sequence[int], like: Tensor) -> FactorisedCodes:
    """The uniform distribution over all sequences, with the dtype and device of the tensor ``like``."""
    return FactorisedCodes(like.new_zeros(len(cardinalities), max(cardinalities)), cardinalities)
