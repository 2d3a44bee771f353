"""Each site given those before it: log q(z) = sum_i log q(z_i | z_<i), with one network for all conditionals.

Scoring is teacher-forced: the logits of all N conditionals come from one pass. Sampling goes site by site and keeps what the network has computed for
the prefix in a cache. The table of all sequences walks the tree of prefixes with that same cache, so that a prefix is computed once and not once for
each of its continuations.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution, check_given, check_shown, checked_exploration, flattened, inverse_cdf
from latentcomp.codes.prefixes import shared_walk
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.noise import Noise

Choice = Callable[[Tensor, int], Tensor]
"""From log q ``(R, K)`` of the codes of a site, and the site, to the codes ``(R,)`` that stand there."""


def _inverse(u: Float[Tensor, "*rows n"], first: int = 0) -> Choice:
    """Draws by uniform numbers, those of the sites from ``first`` on; all are brought into place before the walk."""
    numbers = u.movedim(-1, 0).flatten(1).unbind()
    return lambda log_p, site: inverse_cdf(log_p, numbers[site - first].to(log_p.dtype))


class AutoregressiveCodes(CodeDistribution):
    """q(z|x) through a sequence network.

    Args:
        network: gives the logits of z_i from z_<i and the context.
        context: ``(B, H)`` features of x, or the codes of a condition for a network that reads those, computed once; None for an unconditional distribution.
        epsilon: the share of the uniform distribution in each conditional.
        temperature: divides the logits of each conditional.
    """

    def __init__(self, network: SequenceNetwork, context: Num[Tensor, "B H"] | None = None, epsilon: float = 0.0, temperature: float = 1.0) -> None:
        checked_exploration(epsilon, temperature)
        self.network, self._context, self._exploration = network, context, (epsilon, temperature)
        super().__init__(torch.Size([]) if context is None else context.shape[:1], network.cardinalities)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def context(self) -> Float[Tensor, "B H"]:
        """``(B, H)`` features of x."""
        return super().context if self._context is None else self._context

    def features(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N1 H"]:
        """The network's features of the N + 1 prefixes of z, the empty and the complete one included: what a flow head reads."""
        return self.network.features(z, self._context)

    def _log_p(self, logits: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows K"]:
        return flattened(logits, *self._exploration)

    def conditionals(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N K"]:
        """log q(. | z_<i) of all sites, in one teacher-forced pass."""
        return self._log_p(self.network(z, self._context))

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """log q(z_i | z_<i) of all sites, in one teacher-forced pass."""
        return self.conditionals(z).gather(-1, z.unsqueeze(-1)).squeeze(-1)

    def select(self, rows: Int[Tensor, " R"]) -> "AutoregressiveCodes":
        """The distributions of these data; an unconditional one is the same for all."""
        return self if self._context is None else self._under(self._context[rows])

    def unconditioned(self, rows: Bool[Tensor, " B"]) -> "AutoregressiveCodes":
        """Where a row is marked, what the network knows as no condition takes the place of its context.

        Raises:
            TypeError: there is no condition, or the network has nothing that stands for none.
        """
        if self._context is None:
            raise TypeError("an unconditional distribution has no condition to leave out: give the prior one, or the objective no share to drop")
        return self._under(torch.where(rows.unsqueeze(-1), self.network.null(self._context), self._context))

    def _under(self, context: Tensor) -> "AutoregressiveCodes":
        """The same family under another context."""
        return AutoregressiveCodes(self.network, context, *self._exploration)

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        return self._written((*leading, rows), _inverse(noise.uniform(leading, self.event_shape)))

    @torch.no_grad()
    def sample_and_log_prob(self, sample_shape: Sequence[int] = (), noise: Noise | None = None) -> tuple[Int[Tensor, "... N"], Float[Tensor, "..."]]:
        """Codes, and the log q that the policy gave them on the way."""
        rows, leading, n = self._rows(sample_shape)
        u = (noise or Noise.fresh(n, self._device)).uniform(leading, self.event_shape)
        z, log_q = self._rollout((*leading, n), _inverse(u))
        return z.view(*rows, -1), log_q.view(rows)

    @torch.no_grad()
    def sample_often_and_log_prob(self, samples: int, noise: Noise) -> tuple[Int[Tensor, "M *B N"], Float[Tensor, "M *B"]]:
        """The same codes, from a walk that computes each distinct prefix of a datum once."""
        rows, leading, _ = self._rows((samples,))
        u = noise.uniform(leading, self.event_shape).view(-1, *self.event_shape)
        z, log_q = shared_walk(self.network, self._context, self._log_p, u)
        return z.view(*rows, -1), log_q.view(rows)

    def continued(self, given: Int[Tensor, "R a"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """A rollout that begins behind the given codes, which are read at once.

        Raises:
            ValueError: there are more codes than sites, codes that a site does not have, or rows that the conditions do not divide.
        """
        u = (noise or Noise.fresh(len(given), self._device)).uniform((), self.event_shape)
        return self.extended(given, u[:, given.shape[1] :])

    @torch.no_grad()
    def extended(self, given: Int[Tensor, "R a"], u: Float[Tensor, "R n"]) -> Int[Tensor, "R end"]:
        """The given codes and as many more as there are uniform numbers: a part of a sequence, for callers that keep the numbers themselves.

        Raises:
            ValueError: as :meth:`continued`.
        """
        first, end = given.shape[1], given.shape[1] + u.shape[1]
        self._check_given(given, end)
        if first == end:
            return given
        return torch.cat([given, self._written((len(given),), _inverse(u, first), given if first else None, end)], 1)

    @torch.no_grad()
    def completed(self, z: Int[Tensor, "R N"], hidden: Bool[Tensor, "R N"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """z with its hidden codes drawn anew, each from q(z_i | z_<i), where z_<i is what stands before it by then, shown or drawn.

        Where all that is shown comes first, these are draws of q(hidden | shown). What is shown behind a hidden code says nothing to it: a network that writes
        one site after the other cannot look ahead. The codes shown before the first that is hidden are read at once.

        Args:
            z: the codes; hidden ones are not looked at.
            hidden: which are to be drawn.
            noise: a stream for each row, used as :meth:`sample` does: with all hidden, its codes.

        Raises:
            ValueError: codes of another number of sites, shown ones that a site does not have, or rows that the conditions do not divide.
        """
        check_shown(z, hidden, self.cardinalities, self.batch_shape.numel())
        first = int((~hidden).all(0).long().cumprod(0).sum())
        draw = _inverse((noise or Noise.fresh(len(z), self._device)).uniform((), self.event_shape))
        if first == z.shape[1]:
            return z

        def choose(log_p: Tensor, site: int) -> Tensor:
            return torch.where(hidden[:, site], draw(log_p, site), z[:, site])

        return torch.cat([z[:, :first], self._written((len(z),), choose, z[:, :first] if first else None)], 1)

    def _check_given(self, given: Tensor, end: int) -> None:
        n = len(self.cardinalities)
        if end > n:
            raise ValueError(f"a sequence has {n} codes, but {end} were given or asked for: give the first of them, e.g. whole rows of the grid")
        check_given(given, self.cardinalities, self.batch_shape.numel())

    @torch.no_grad()
    def redraw(self, z: Int[Tensor, "*rows N"], cut: Int[Tensor, "*rows"], noise: Noise) -> tuple[Int[Tensor, "*rows N"], Float[Tensor, "*rows"]]:
        """A rollout that is told the codes before the cut."""
        draw, given = _inverse(noise.uniform(z.shape[:-2], self.event_shape)), z.reshape(-1, z.shape[-1])

        def choose(log_p: Tensor, site: int) -> Tensor:
            return torch.where(cut.reshape(-1) <= site, draw(log_p, site), given[:, site])

        return self._rollout(z.shape[:-1], choose)

    @property
    def mode(self) -> Int[Tensor, "*B N"]:
        """The greedy codes: each site's best given those chosen before it."""
        with torch.no_grad():
            return self._written(tuple(self.batch_shape) or (1,), lambda log_p, _: log_p.argmax(-1)).view(*self.batch_shape, -1)

    def _walk(self, rows: int, choose: Choice, given: Tensor | None = None, end: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Site by site, the codes that are chosen and log q of all codes there; with codes given, those behind them, before the site ``end``."""
        first, z = (0, None) if given is None else (given.shape[1], given[:, -1])
        cache = self.network.start(rows, self._context) if given is None else self.network.resume(rows, self._context, given)
        for site in range(first, end or len(self.cardinalities)):
            log_p = self._log_p(self.network.advance(cache, site, z))
            z = choose(log_p, site)
            yield z, log_p

    def _written(self, rows: Sequence[int], choose: Choice, given: Tensor | None = None, end: int | None = None) -> Int[Tensor, "... N"]:
        """The codes ``(*rows, N)`` of such a walk."""
        return torch.stack([z for z, _ in self._walk(math.prod(rows), choose, given, end)], -1).view(*rows, -1)

    def _rollout(self, rows: Sequence[int], choose: Choice) -> tuple[Int[Tensor, "... N"], Float[Tensor, "..."]]:
        """The codes ``(*rows, N)`` of a walk over all sites, and their log-probability."""
        steps = [(z, log_p.gather(-1, z.unsqueeze(-1)).squeeze(-1)) for z, log_p in self._walk(math.prod(rows), choose)]
        z, log_q = (torch.stack(part, -1) for part in zip(*steps, strict=True))
        return z.view(*rows, -1), log_q.sum(-1).view(rows)

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "AutoregressiveCodes":
        """Every conditional flattened by the temperature, then mixed with the uniform distribution."""
        return AutoregressiveCodes(self.network, self._context, epsilon, temperature)

    @torch.no_grad()
    def table(self) -> Float[Tensor, "*B M"]:
        """log q of all sequences, by a walk over the tree of prefixes; without a gradient, since the walk reuses the cache in place."""
        rows = self.batch_shape.numel()
        cache, z = self.network.start(rows, self._context), None
        table = torch.zeros(rows, 1, device=self._device)
        for site, k in enumerate(self.cardinalities):
            log_p = self._log_p(self.network.advance(cache, site, z))[:, :k]
            table = (table.unsqueeze(-1) + log_p.view(rows, -1, k)).flatten(1)
            if site + 1 < len(self.cardinalities):
                prefixes = torch.arange(table.numel(), device=self._device)
                cache.select(prefixes // k)
                z = prefixes % k
        return table.view(*self.batch_shape, -1)
