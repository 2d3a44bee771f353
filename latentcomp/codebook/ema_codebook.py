"""A codebook of running means of the encoder outputs that were assigned to each code (van den Oord et al., 2017, appendix A.1): k-means with memory.

    n_k <- decay n_k + (1 - decay) |{h : z(h) = k}|,   m_k <- decay m_k + (1 - decay) sum_{h : z(h) = k} h,   e_k <- m_k / n_k.

No gradient reaches the vectors; what a step assigned comes as ``statistics``, as in :mod:`~latentcomp.codebook.codebook`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.space import Space
from latentcomp.codebook.start import Start, occupancy, totals


class EMACodebook(Codebook):
    """K vectors of dimension D, running means of what was assigned to them; no gradient reaches them.

    Args:
        codes: K.
        width: D.
        restart: as in :class:`Codebook`.
        decay: of the running counts and sums.
        start: as in :class:`Codebook`.
        space: as in :class:`Codebook`; on the sphere, means are normalised.
    """

    averages = True
    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, restart: float = 0.0, decay: float = 0.99, start: Start | None = None, space: Space | None = None) -> None:
        super().__init__(codes, width, restart, start, space)
        self.decay = decay
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.weight.clone())

    def _own(self, weight: Float[Tensor, "K D"]) -> None:
        self.register_buffer("weight", weight)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B N"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Counts ``(1, K)`` and sums ``(1, K, D)`` of the outputs assigned to each code, and the outputs themselves as candidates."""
        counts = occupancy(z.flatten(), self.codes, self.weight.dtype)
        sums = totals(h.detach().flatten(0, 1).to(self.weight.dtype), z.flatten(), self.codes)
        return super().statistics(h, z, index) | {"counts": counts.unsqueeze(0), "sums": sums.unsqueeze(0)}

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """A k-means step with memory; codes that nothing was assigned to for long keep their vector."""
        if "sums" not in statistics:
            return
        if not self.waits:
            self.counts.lerp_(statistics["counts"].sum(0), 1 - self.decay)
            self.sums.lerp_(statistics["sums"].sum(0), 1 - self.decay)
            means = self.space(self.sums / self.counts.unsqueeze(-1).clamp_min(1e-5))
            self.weight.copy_(torch.where(self.counts.unsqueeze(-1) > 1e-5, means, self.weight))
        super().update(statistics, seed, step)

    def _settle(self, means: Float[Tensor, "K D"], counts: Float[Tensor, " K"]) -> None:
        super()._settle(means, counts)
        self.counts.copy_(counts)
        self.sums.copy_(means * counts.unsqueeze(-1))

    def _moved(self, moves: Tensor) -> None:
        self.counts.masked_fill_(moves.squeeze(-1), 1.0)
        self.sums.copy_(torch.where(moves, self.weight, self.sums))
