"""The codebook e = E[z]: which vector each code stands for, and which code stands nearest to a vector.

A codebook learns in one of two ways. In ``Codebook`` the vectors are parameters and descend a loss. In ``EMACodebook`` they are the running means of the
encoder outputs that were assigned to them (van den Oord et al., 2017, appendix A.1), a k-means step with memory:

    n_k <- decay n_k + (1 - decay) |{h : z(h) = k}|,   m_k <- decay m_k + (1 - decay) sum_{h : z(h) = k} h,   e_k <- m_k / n_k.

Either may restart dead codes: a code whose running count falls below a threshold moves onto an encoder output of the current batch
(Dhariwal et al., 2020, "Jukebox").

What a step assigned leaves the learner as ``statistics``, tensors of rows. The loop puts the rows of all micro-batches below each other and hands them to
``update`` once a step, so that the split of a batch changes nothing.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, one_hot

from latentcomp.described import Described
from latentcomp.noise import Noise


def squared_distances(h: Float[Tensor, "*B D"], weight: Float[Tensor, "K D"]) -> Float[Tensor, "*B K"]:
    """||h - e_k||^2 in float32 or better, as |h|^2 - 2 h.e_k + |e_k|^2: one matrix product."""
    h, weight = (t if t.dtype == torch.float64 else t.float() for t in (h, weight))
    with torch.autocast(h.device.type, enabled=False):
        return h.square().sum(-1, keepdim=True) - 2 * h @ weight.T + weight.square().sum(-1)


class Codebook(Described, nn.Module):
    """K vectors of dimension D, learned by gradient.

    Args:
        codes: K.
        width: D.
        restart: a code whose running count of assignments a step (decay 0.99) falls below this number is dead and moves onto an encoder output;
            0 never restarts.
    """

    decay = 0.99
    averages = False  # whether its vectors learn from statistics alone
    weight: Tensor
    usage: Tensor

    def __init__(self, codes: int, width: int, restart: float = 0.0) -> None:
        super().__init__()
        self.restart = restart
        self._own(torch.randn(codes, width))
        self.register_buffer("usage", torch.full((codes,), 2.0 * restart))

    def _own(self, weight: Float[Tensor, "K D"]) -> None:
        self.weight = nn.Parameter(weight)

    @property
    def codes(self) -> int:
        """K."""
        return len(self.weight)

    def forward(self, z: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """e = E[z].

        Raises:
            TypeError: the codes are no whole numbers.
            ValueError: a code lies outside 0..K-1 (on an accelerator, where looking would stall it, the device's own assertion says so instead).
        """
        if z.is_floating_point() or z.dtype == torch.bool:
            raise TypeError(f"codes are whole numbers (torch.long), got {z.dtype}: pass indices, or embeddings to model.decode")
        try:
            return embedding(z, self.weight)
        except IndexError:
            raise ValueError(
                f"codes must lie in 0..{self.codes - 1} (K={self.codes}); got values from {int(z.min())} to {int(z.max())}. "
                "Build the codebook and the prior with the same K as the codes you pass."
            ) from None

    def mix(self, y: Float[Tensor, "*B K"]) -> Float[Tensor, "*B D"]:
        """sum_k y_k e_k, the embedding of a relaxed code."""
        return y @ self.weight

    def nearest(self, h: Float[Tensor, "*B D"], cardinalities: Sequence[int] | None = None) -> Int[Tensor, "*B"]:
        """argmin_k ||h - e_k||^2; with the cardinalities of N sites, for h ``(*B, N, D)``, site i chooses among its own codes k < K_i."""
        with torch.no_grad():
            distances = squared_distances(h, self.weight)
            if cardinalities is not None and min(cardinalities) < self.codes:
                exists = torch.arange(self.codes, device=h.device) < torch.tensor(cardinalities, device=h.device).unsqueeze(-1)
                distances = distances.masked_fill(~exists, math.inf)
            return distances.argmin(-1)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B N"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """What ``update`` needs of this batch: a row for each count, sum or candidate. ``index`` is each datum's position in its set."""
        if self.restart == 0:
            return {}
        return {"h": h.detach(), "index": index, "counts": self._assignments(z).sum(0, keepdim=True)}

    def _assignments(self, z: Int[Tensor, "B N"]) -> Float[Tensor, "BN K"]:
        return one_hot(z.flatten(), self.codes).to(self.weight.dtype)

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Learns what needs no gradient, from the rows of a whole step."""
        if self.restart > 0 and "counts" in statistics:
            self.usage.lerp_(statistics["counts"].sum(0).to(self.usage.dtype), 1 - self.decay)
            self._restart(self.usage < self.restart, statistics, seed, step)

    def _restart(self, dead: Tensor, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Dead codes move onto encoder outputs, chosen by a lottery keyed by (seed, step, example): no batch split or order of rows changes it."""
        sites = statistics["h"].shape[1]
        ticket = Noise(seed, step, statistics["index"]).uniform((), (sites,), torch.float64).flatten()
        winners = rearrange(statistics["h"], "b n d -> (b n) d")[ticket.argsort()]
        winners = winners[torch.arange(self.codes, device=winners.device) % len(winners)].to(self.weight.dtype)
        self.weight.data.copy_(torch.where(dead.unsqueeze(-1), winners, self.weight))
        self.usage.masked_fill_(dead, 2 * self.restart)


class EMACodebook(Codebook):
    """K vectors of dimension D, running means of what was assigned to them; no gradient reaches them.

    Args:
        codes: K.
        width: D.
        restart: as in :class:`Codebook`.
        decay: of the running counts and sums.
    """

    averages = True
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, restart: float = 0.0, decay: float = 0.99) -> None:
        super().__init__(codes, width, restart)
        self.decay = decay
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.weight.clone())

    def _own(self, weight: Float[Tensor, "K D"]) -> None:
        self.register_buffer("weight", weight)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B N"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Counts ``(1, K)`` and sums ``(1, K, D)`` of the outputs assigned to each code, and the outputs themselves as candidates of a restart."""
        assigned = self._assignments(z)
        with torch.autocast(h.device.type, enabled=False):  # a sum of many vectors in 16 bits would lose most of them
            sums = assigned.T @ rearrange(h.detach(), "b n d -> (b n) d").to(assigned.dtype)
        return super().statistics(h, z, index) | {"counts": assigned.sum(0, keepdim=True), "sums": sums.unsqueeze(0)}

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """A k-means step with memory; codes that nothing was assigned to for long keep their vector."""
        if "sums" not in statistics:
            return
        self.counts.lerp_(statistics["counts"].sum(0), 1 - self.decay)
        self.sums.lerp_(statistics["sums"].sum(0), 1 - self.decay)
        self.weight.copy_(torch.where(self.counts.unsqueeze(-1) > 1e-5, self.sums / self.counts.unsqueeze(-1).clamp_min(1e-5), self.weight))
        super().update(statistics, seed, step)

    def _restart(self, dead: Tensor, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        super()._restart(dead, statistics, seed, step)
        self.counts.masked_fill_(dead, 1.0)
        self.sums.copy_(torch.where(dead.unsqueeze(-1), self.weight, self.sums))
