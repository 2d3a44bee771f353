"""The policy network of the published mixture notebook, in one copy for each run: 10 -> 32 -> LeakyReLU -> 9, 649 parameters.

It reads x and the one-hot codes chosen so far; its nine outputs are the logits of i, the logits of j and log Z(x). The logits of i and log Z(x) are read
before a code is chosen, the logits of j after i is: two passes. The first layer's product with x is the same in both and is computed once (the trunk).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot

from experiments.mixture.data import CLUSTERS
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.nn.sequence import Cache, SequenceNetwork
from latentcomp.noise import Noise
from latentcomp.phases.e_step import AmortisedLogZ

INPUTS, OUTPUTS = 2 + 2 * CLUSTERS, 2 * CLUSTERS + 1
TRUNK, POLICY = 11, 13  # the keys of two streams of noise


def uniform(seeds: Sequence[int], key: int, shapes: Sequence[tuple[tuple[int, ...], int]]) -> list[nn.Parameter]:
    """Initial weights of one network for each seed, uniform within one over the square root of the fan-in, as those of torch's linear layers."""
    noise = Noise(0, key, torch.tensor(seeds))
    return [nn.Parameter((2 * noise.uniform((), shape) - 1) * fan_in**-0.5) for shape, fan_in in shapes]


class RunwiseTrunk(nn.Module):
    """The first layer's share of x: ``(R B, 1, 1, 2)`` to ``(R B, F)``.

    Args:
        seeds: of the initial weights, one for each run.
        width: F.
    """

    def __init__(self, seeds: Sequence[int], width: int = 32) -> None:
        super().__init__()
        self.weight, self.bias = uniform(seeds, TRUNK, [((2, width), INPUTS), ((1, width), INPUTS)])

    def forward(self, x: Float[Tensor, "B 1 1 2"]) -> Float[Tensor, "B F"]:
        """Before the nonlinearity."""
        return torch.baddbmm(self.bias, x.view(len(self.weight), -1, 2), self.weight).flatten(0, 1)


@dataclass
class Hidden(Cache):
    """The first layer's sum ``(S, R, B, F)``, before the nonlinearity."""

    total: Tensor

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all, of each run as many.

        Raises:
            ValueError: runs would be left with different numbers of rows, or in another order.
        """
        runs, each = self.total.shape[-3:-1]
        if len(rows) % runs or bool((rows.view(runs, -1) // each != torch.arange(runs, device=rows.device).unsqueeze(-1)).any()):
            raise ValueError(f"{runs} runs are computed side by side: choose as many rows of each, run by run")
        self.total = self.total.flatten(-3, -2)[..., rows, :].unflatten(-2, (runs, -1))


class RunwisePolicy(SequenceNetwork[Hidden]):
    """q(i, j|x) of R runs, and their log Z(x).

    Args:
        seeds: of the initial weights, one for each run.
        width: F, as wide as the trunk.
    """

    def __init__(self, seeds: Sequence[int], width: int = 32) -> None:
        super().__init__((CLUSTERS, CLUSTERS), None)
        shapes = [((2, CLUSTERS, width), INPUTS), ((width, OUTPUTS), width), ((1, OUTPUTS), width)]
        self.rows, self.head, self.head_bias = uniform(seeds, POLICY, shapes)

    @property
    def runs(self) -> int:
        """R."""
        return len(self.head)

    def _by_run(self, rows: Tensor) -> Tensor:
        """``(*S, R B, ...)`` as ``(*S, R, B, ...)``, for the last axis but one."""
        return rows.unflatten(-2, (self.runs, -1))

    def _outputs(self, total: Float[Tensor, "*S R B F"], which: slice) -> Float[Tensor, "*S R B O"]:
        return leaky_relu(total) @ self.head[..., which] + self.head_bias[..., which]

    def _site(self, total: Tensor, site: int) -> Tensor:
        return self._outputs(total, slice(site * CLUSTERS, (site + 1) * CLUSTERS))

    def _chosen(self, z: Int[Tensor, "*S R B"], site: int) -> Float[Tensor, "*S R B F"]:
        return one_hot(z, CLUSTERS).to(self.rows.dtype) @ self.rows[:, site]

    def log_z(self, context: Float[Tensor, "B F"]) -> Float[Tensor, "B"]:
        """log Z(x), the ninth output before any code is chosen."""
        return self._outputs(self._by_run(context), slice(2 * CLUSTERS, OUTPUTS)).flatten()

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The hidden layer of the three prefixes."""
        total = [self._by_run(self._required(context)).expand(*z.shape[:-2], self.runs, -1, -1)]
        for site in range(2):
            total.append(total[-1] + self._chosen(z[..., site].unflatten(-1, (self.runs, -1)), site))
        return leaky_relu(torch.stack(total, -2)).flatten(-4, -3)

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of i, which need x alone, and of j, which need i."""
        total = self._by_run(self._required(context))
        first = self._site(total, 0).expand(*z.shape[:-2], self.runs, -1, -1)
        second = self._site(total + self._chosen(z[..., 0].unflatten(-1, (self.runs, -1)), 0), 1)
        return torch.stack([first, second], -2).flatten(-4, -3)

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> Hidden:
        """x alone."""
        total = self._by_run(self._required(context))
        return Hidden(total.expand(rows // total.shape[:2].numel(), *total.shape))

    def advance(self, cache: Hidden, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The code of the site before joins the sum."""
        if z is not None:
            cache.total = cache.total + self._chosen(z.view(cache.total.shape[:-1]), site - 1)
        return self._site(cache.total, site).flatten(0, -2)

    def _required(self, context: Tensor | None) -> Tensor:
        if context is None:
            raise ValueError("RunwisePolicy reads x through a RunwiseTrunk: use both in latentcomp.posteriors.Autoregressive")
        return context


class PolicyLogZ(AmortisedLogZ):
    """log Z(x) where the policy itself has an output for it; the parameters are the policy's."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, q: CodeDistribution) -> Float[Tensor, "B"]:
        """log Z(x)."""
        return q.network.log_z(q.context)  # type: ignore[attr-defined]
