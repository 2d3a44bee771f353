"""Codes predicted in any order (Chang et al., 2022, "MaskGIT"; Uria et al., 2014; Hoogeboom et al., 2022): few parallel steps to draw, a bound to score.

A network gives p(z_i | z_visible) for every set of visible sites. Written in a random order o, one site at a time, it is the distribution

    p(z) = E_o prod_i p(z_o(i) | z_o(<i)),    log p(z) >= E_o sum_i log p(z_o(i) | z_o(<i)).

The right-hand side is what can be estimated and learned, in one pass for each datum; it is a lower bound and is called so, never log p(z). MaskGIT's decoder
draws many sites at once, the surest first: its samples follow no density that anyone could write down, and only as many steps as sites, in random order,
draw from p(z).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution, check_shown, flattened, inverse_cdf
from latentcomp.described import nameable
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.noise import Noise

Schedule = Callable[[Tensor], Tensor]


@nameable
def uniform_share(u: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """1 - u: for uniform u every number of hidden sites is as probable; as a decoding's schedule, each step shows as many sites."""
    return 1 - u


@nameable
def cosine_share(u: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """cos(pi u / 2), MaskGIT's: many hidden more often than few."""
    return (u * (math.pi / 2)).cos()


class Decoding(NamedTuple):
    """How codes are drawn.

    Attributes:
        steps: T; each step shows the sites whose number follows the schedule.
        temperature: of the codes; divides the logits.
        randomness: of which sites are shown: the weight of the Gumbel noise on their log-probabilities, which falls to 0 over the steps;
            infinite for a random order.
        guidance: the scale of classifier-free guidance; 1 for none.
        schedule: maps t / T to the share of sites that are still hidden, from 1 at 0 to 0 at 1.
    """

    steps: int = 8
    temperature: float = 1.0
    randomness: float = 4.5
    guidance: float = 1.0
    schedule: Schedule = cosine_share


ANY_ORDER = math.inf


class MaskedCodes(CodeDistribution):
    """Codes through a masked network.

    Args:
        network: gives the logits of hidden sites.
        context: ``(B, M)`` codes of the condition; None for an unconditional distribution.
        decoding: how they are drawn; None for MaskGIT's, in eight steps or as many as there are sites.

    Raises:
        ValueError: a setting of the decoding is out of range.
    """

    def __init__(self, network: MaskedTransformer, context: Int[Tensor, "B M"] | None = None, decoding: Decoding | None = None) -> None:
        self.network, self._context = network, context
        self.decoding = Decoding(min(8, len(network.cardinalities))) if decoding is None else decoding
        super().__init__(torch.Size([]) if context is None else context.shape[:1], network.cardinalities)
        if not 1 <= self.decoding.steps <= len(self.cardinalities):
            raise ValueError(f"codes of {len(self.cardinalities)} sites are drawn in 1 to {len(self.cardinalities)} steps, got {self.decoding.steps}")
        if not self.decoding.temperature > 0 or not self.decoding.randomness >= 0:
            raise ValueError(f"the temperature must be positive and the randomness at least 0; got {self.decoding}")
        first, last = (float(self.decoding.schedule(torch.tensor(u, dtype=torch.float64))) for u in (0.0, 1.0))
        if abs(first - 1) > 1e-6 or abs(last) > 1e-6:
            raise ValueError(
                f"a decoding's schedule falls from 1 (all hidden) to 0; got one from {first:g} to {last:g}: take cosine_share, uniform_share, or 1 - yours"
            )

    @property
    def _device(self) -> torch.device:
        return self.network.positions.device

    def _logits(self, z: Tensor, hidden: Tensor) -> Tensor:
        logits = self.network(z, hidden, self._context)
        if self.decoding.guidance == 1 or self._context is None:
            return logits
        without = self.network(z, hidden, self.network.condition.null(len(self._context)))
        return torch.lerp(without, logits, self.decoding.guidance)

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        z = torch.zeros(*leading, rows, len(self.cardinalities), dtype=torch.long, device=self._device)
        return self._shown(z, torch.ones_like(z, dtype=torch.bool), noise, leading)

    def completed(self, z: Int[Tensor, "R N"], hidden: Bool[Tensor, "R N"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """z with its hidden codes drawn anew given all others: any part of an image can be asked for. Row r belongs to condition r modulo B.

        Raises:
            ValueError: codes of another number of sites than the prior's, visible ones that a site does not have, or rows that the conditions do not divide.
        """
        conditions = self.batch_shape.numel()
        check_shown(z, hidden, self.cardinalities, conditions)
        each = self if len(z) == conditions else self.select(torch.arange(len(z), device=z.device) % conditions)
        with torch.no_grad():
            return each._shown(z, hidden, noise or Noise.fresh(len(z), self._device), torch.Size([]))

    def continued(self, given: Int[Tensor, "R a"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """The first codes are given, the rest hidden.

        Raises:
            ValueError: there are more codes than sites, or as :meth:`completed`.
        """
        n, a = len(self.cardinalities), given.shape[1]
        if a > n:
            raise ValueError(f"a sequence has {n} codes, but {a} were given: give the first of them, e.g. whole rows of the grid")
        z = torch.cat([given, given.new_zeros(len(given), n - a)], 1)
        return self.completed(z, (torch.arange(n, device=z.device) >= a).expand_as(z), noise)

    def _shown(self, z: Tensor, hidden: Tensor, noise: Noise, leading: torch.Size) -> Tensor:
        """Step by step: draw all hidden sites, keep the surest, hide the rest again."""
        steps, n = self.decoding.steps, z.shape[-1]
        at_first = hidden.sum(-1, keepdim=True)
        for step in range(1, steps + 1):
            code, order = noise.uniform(leading, (2, n)).unbind(-2)
            log_p = flattened(self._logits(z, hidden), 0.0, self.decoding.temperature)
            drawn = inverse_cdf(log_p, code.to(log_p.dtype))
            z = torch.where(hidden, drawn, z)
            if step == steps:
                break
            sure = self._sureness(log_p.gather(-1, drawn.unsqueeze(-1)).squeeze(-1), order, 1 - step / steps)
            left = (at_first * self._share(step) + 1e-6).floor()
            left = torch.minimum(left, hidden.sum(-1, keepdim=True) - 1).clamp_min(0)
            hidden = sure.masked_fill(~hidden, math.inf).argsort(-1).argsort(-1) < left
        return z

    def _share(self, step: int) -> float:
        """Of the sites, what stays hidden after a step; a millionth of a site is added where it is used, for N (1 - t / N) may fall short of a whole number."""
        return float(self.decoding.schedule(torch.tensor(step / self.decoding.steps, dtype=torch.float64)))

    def _sureness(self, log_p: Tensor, u: Tensor, share: float) -> Tensor:
        gumbel = -(-u.log()).log()
        return gumbel if self.decoding.randomness == math.inf else log_p + self.decoding.randomness * share * gumbel

    @property
    def mode(self) -> Int[Tensor, "*B N"]:
        """The surest code of the surest sites, in as many steps as drawing takes."""
        rows = tuple(self.batch_shape) or (1,)
        z = torch.zeros(*rows, len(self.cardinalities), dtype=torch.long, device=self._device)
        hidden, left = torch.ones_like(z, dtype=torch.bool), z.shape[-1]
        with torch.no_grad():
            for step in range(1, self.decoding.steps + 1):
                log_p = self._logits(z, hidden).log_softmax(-1)
                best = log_p.max(-1)
                z = torch.where(hidden, best.indices, z)
                left = 0 if step == self.decoding.steps else max(0, min(int(z.shape[-1] * self._share(step) + 1e-6), left - 1))  # in all rows alike
                hidden = best.values.masked_fill(~hidden, math.inf).argsort(-1).argsort(-1) < left
        return z.view(*self.batch_shape, -1)

    def bound(self, z: Int[Tensor, "*rows N"], noise: Noise, schedule: Schedule = uniform_share) -> Float[Tensor, "*rows"]:
        """An estimate of E_o sum_i log p(z_o(i) | z_o(<i)) <= log p(z), in nats, from one pass: (N / hidden) sum over the hidden sites.

        Unbiased for shares that are uniform; with a gradient.
        """
        n = z.shape[-1]
        u, order = noise.uniform(z.shape[:-2], ()), noise.uniform(z.shape[:-2], (n,))
        count = (schedule(1 - u.double()) * n).ceil().clamp(1, n).long().unsqueeze(-1)
        hidden = order.argsort(-1).argsort(-1) < count
        log_p = flattened(self.network(z, hidden, self._context), 0.0, 1.0).gather(-1, z.unsqueeze(-1)).squeeze(-1)
        return torch.where(hidden, log_p, 0.0).sum(-1) * n / count.squeeze(-1)

    def log_prob_in_order(self, z: Int[Tensor, "*rows N"], order: Int[Tensor, " N"]) -> Float[Tensor, "*rows"]:
        """sum_i log p(z_o(i) | z_o(<i)) of one order of sites, exactly: the log-probability under the distribution that writes in that order. N passes."""
        total, hidden = torch.zeros(z.shape[:-1], dtype=self.network.positions.dtype, device=z.device), torch.ones_like(z, dtype=torch.bool)
        for site in order.tolist():
            log_p = flattened(self.network(z, hidden, self._context)[..., site, :], 0.0, 1.0)
            total = total + log_p.gather(-1, z[..., site, None]).squeeze(-1)
            hidden = hidden.clone()
            hidden[..., site] = False
        return total

    def select(self, rows: Int[Tensor, " R"]) -> "MaskedCodes":
        """The distributions of these data."""
        return self if self._context is None else MaskedCodes(self.network, self._context[rows], self.decoding)

    def unconditioned(self, rows: Bool[Tensor, " B"]) -> "MaskedCodes":
        """Those of the marked data without their condition.

        Raises:
            TypeError: there is none.
        """
        if self._context is None:
            raise TypeError("an unconditional distribution has no condition to leave out: give the prior one, or the objective no share to drop")
        null = self.network.condition.null(len(self._context))
        return MaskedCodes(self.network, torch.where(rows.unsqueeze(-1), null, self._context), self.decoding)

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """Refused: log p(z) is the log of a mean over N! orders.

        Raises:
            TypeError: always; says what can be had.
        """
        raise TypeError("a masked prior has no log p(z), only a bound: take bound(z, noise), learn by MaskedSites(), or name an order to log_prob_in_order")

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "MaskedCodes":
        """Refused: a behaviour policy needs a density.

        Raises:
            TypeError: always.
        """
        raise TypeError("a masked prior cannot be a behaviour policy, which needs the density of what it draws: choose an autoregressive one")

    def table(self) -> Float[Tensor, "*B M"]:
        """Refused, as :meth:`log_prob_steps`.

        Raises:
            TypeError: always.
        """
        return self.log_prob_steps(torch.zeros(len(self.cardinalities), dtype=torch.long))
