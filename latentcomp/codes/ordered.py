"""Codes in another order than they are written in: a distribution over sequences, whose sites stand where they lie in the grid.

log q(z) = log q'(z_o(1), ..., z_o(N)) with a permutation o of the sites and a distribution q' over sequences in that order.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.nn.grid import Ordered
from latentcomp.noise import Noise


class OrderedCodes(CodeDistribution):
    """Sites in the grid's order; their steps, and what is given of them, follow the order of writing.

    Args:
        written: the distribution over sequences in the order of writing.
        order: position i of such a sequence holds the site ``order.order[i]`` of the grid.
    """

    def __init__(self, written: CodeDistribution, order: Ordered) -> None:
        self.written, self.order = written, order
        super().__init__(written.batch_shape, [written.cardinalities[i] for i in order.places])

    @property
    def _device(self) -> torch.device:
        return self.written._device

    def _placed(self, z: Tensor) -> Tensor:
        return z[..., self.order.inverse]

    def _sequence(self, z: Tensor) -> Tensor:
        return z[..., self.order.order]

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        return self._placed(self.written._draw(leading, rows, noise))

    def sample_and_log_prob(self, sample_shape: Sequence[int] = (), noise: Noise | None = None) -> tuple[Int[Tensor, "... N"], Float[Tensor, "..."]]:
        """What the inner distribution draws, put in place."""
        z, log_q = self.written.sample_and_log_prob(sample_shape, noise)
        return self._placed(z), log_q

    def sample_often_and_log_prob(self, samples: int, noise: Noise) -> tuple[Int[Tensor, "M *B N"], Float[Tensor, "M *B"]]:
        """What the inner distribution draws, put in place."""
        z, log_q = self.written.sample_often_and_log_prob(samples, noise)
        return self._placed(z), log_q

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """log q of the code of each site given those written before it, at the site's own place."""
        return self._placed(self.written.log_prob_steps(self._sequence(z)))

    def log_prob(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows"]:
        """log q(z), in nats."""
        return self.written.log_prob(self._sequence(z))

    def conditionals(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N K"]:
        """The log-probabilities of all codes of each site given those written before it."""
        return self.written.conditionals(self._sequence(z))[..., self.order.inverse, :]

    def select(self, rows: Int[Tensor, " R"]) -> "OrderedCodes":
        """The distributions of these data."""
        return OrderedCodes(self.written.select(rows), self.order)

    def unconditioned(self, rows: Bool[Tensor, " B"]) -> "OrderedCodes":
        """Those of the marked data without their condition."""
        return OrderedCodes(self.written.unconditioned(rows), self.order)

    def continued(self, given: Int[Tensor, "R a"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """The given codes are the first that are written, in the order of writing; a given part of the grid is :meth:`completed`."""
        return self._placed(self.written.continued(given, noise))

    def completed(self, z: Int[Tensor, "R N"], hidden: Bool[Tensor, "R N"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """Any part of the grid may be hidden: what is drawn is given what was written before it in this order, shown or drawn."""
        return self._placed(self.written.completed(self._sequence(z), self._sequence(hidden), noise))

    def redraw(self, z: Int[Tensor, "*rows N"], cut: Int[Tensor, "*rows"], noise: Noise) -> tuple[Int[Tensor, "*rows N"], Float[Tensor, "*rows"]]:
        """Codes that keep the first ``cut`` that were written."""
        new, log_q = self.written.redraw(self._sequence(z), cut, noise)
        return self._placed(new), log_q

    @property
    def mode(self) -> Int[Tensor, "*B N"]:
        """The inner distribution's, put in place."""
        return self._placed(self.written.mode)

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "OrderedCodes":
        """The inner distribution explores."""
        return OrderedCodes(self.written.explore(epsilon, temperature), self.order)

    def table(self) -> Float[Tensor, "*B M"]:
        """log q of all sequences, the grid's first site varying slowest."""
        batch = len(self.batch_shape)
        tree = self.written.table().unflatten(-1, self.written.cardinalities)
        return tree.permute(*range(batch), *(batch + i for i in self.order.places)).flatten(batch)
