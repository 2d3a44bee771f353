"""What every codebook is: a map from codes to embeddings, and one from encoder outputs to codes.

``codebook(z)`` is e, ``codebook.nearest(h)`` is z; learners ask no more than that of it. Which vectors the codes have is the geometry: parameters that
descend a loss (:class:`~latentcomp.codebook.codebook.Codebook`), running means (``EMACodebook``), a fixed grid (``FSQ``), the corners of a cube (``LFQ``), a
learned linear image of fixed vectors (``SimVQ``), sums of several (``ResidualVQ``).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.codebook.lookup import lookup, nearest_code, squared_distances
from latentcomp.described import Described


class Geometry(Described, nn.Module, ABC):
    """K codes and their vectors of dimension D.

    Attributes:
        averages: whether its vectors learn from statistics alone.
        depth: how many codes describe one vector h: sites of the model for each vector that the encoder gives.
    """

    averages = False
    depth = 1

    @property
    @abstractmethod
    def vectors(self) -> Float[Tensor, "K D"]:
        """e_k of all codes, as the decoder sees them."""

    @property
    def codes(self) -> int:
        """K."""
        return len(self.vectors)

    @property
    def width(self) -> int:
        """D, what the encoder must give and the decoder take."""
        return self.vectors.shape[-1]

    def forward(self, z: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """e = E[z].

        Raises:
            TypeError: the codes are no whole numbers.
            ValueError: a code lies outside 0..K-1 (on an accelerator, where looking would stall it, the device's own assertion says so instead).
        """
        return lookup(z, self.vectors)

    def mix(self, y: Float[Tensor, "*B K"]) -> Float[Tensor, "*B D"]:
        """sum_k y_k e_k, the embedding of a relaxed code."""
        return y @ self.vectors

    def project(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The encoder's output where codes live, with a gradient: what ``nearest`` compares, and what a straight-through gradient reaches."""
        return h

    def nearest(self, h: Float[Tensor, "*B D"], cardinalities: Sequence[int] | None = None) -> Int[Tensor, "*B"]:
        """argmin_k ||project(h) - e_k||^2; with the cardinalities of N sites, for h ``(*B, N, D)``, site i chooses among its own codes k < K_i.

        Raises:
            ValueError: h has another dimension than the codes.
        """
        with torch.no_grad():
            return nearest_code(self.project(h), self.vectors, self._exists(cardinalities, h.device))

    def _exists(self, cardinalities: Sequence[int] | None, device: torch.device) -> Bool[Tensor, "N K"] | None:
        if cardinalities is None or min(cardinalities) >= self.codes:
            return None
        return torch.arange(self.codes, device=device) < torch.tensor(cardinalities, device=device).unsqueeze(-1)

    def assigned(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
        """What each code was chosen for, and its vector: the pairs that codebook and commitment loss pull together; ``h`` is projected."""
        return h, self(z)

    def soft(self, h: Float[Tensor, "B N D"], temperature: float) -> tuple[Float[Tensor, " M"], Float[Tensor, " K"]]:
        """For q(k|h) ~ exp(-||h - e_k||^2 / temperature): its entropy in nats for each of the M = B N vectors, and its mean over them; ``h`` is projected."""
        log_q = (-squared_distances(h.flatten(0, -2), self.vectors) / temperature).log_softmax(-1)
        q = log_q.exp()
        return -(q * log_q).sum(-1), q.mean(0)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B S"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """What ``update`` needs of this batch, a row for each count, sum or candidate; ``h`` is projected, ``index`` each datum's position in its set."""
        return {}

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Learns what needs no gradient, from the rows of a whole step."""
