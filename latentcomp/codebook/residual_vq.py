"""Residual quantisation (Zeghidour et al., 2021; Lee et al., 2022, "RQ-VAE"): Q codes for each vector, each for what the ones before it left over.

    r_1 = h,   z_q = argmin_k ||r_q - e_qk||,   r_{q+1} = r_q - e_{q z_q},   e = sum_q e_{q z_q}.

To the model these are N Q sites: the codes of one vector stand next to each other, (z_11 .. z_1Q, z_21 ..), so a prior may model what one says of the next.
The pairs that codebook and commitment loss pull together are (r_q, e_q), with earlier vectors held fixed: the loss of RQ-VAE, one term a depth.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.space import Euclidean


class ResidualVQ(Geometry):
    """Sums of one vector from each of Q codebooks.

    Args:
        codebooks: for depth 1 to Q, of equal K and D; the same one may come several times and is then shared.

    Raises:
        ValueError: there is none, they disagree on K or D, or one of them lives on a sphere.
    """

    def __init__(self, codebooks: Sequence[Codebook]) -> None:
        super().__init__()
        shapes = {(book.codes, book.width) for book in codebooks}
        if len(shapes) != 1:
            raise ValueError(f"residual quantisation needs one or more codebooks that agree on (K, D), got {[(book.codes, book.width) for book in codebooks]}")
        if not all(isinstance(book.space, Euclidean) for book in codebooks):
            raise ValueError("what is left over of a vector lies on no sphere: give the codebooks of a residual quantiser the Euclidean space")
        self.books = nn.ModuleList(codebooks)
        self.depth = len(codebooks)
        self.averages = any(book.averages for book in codebooks)

    @property
    def _distinct(self) -> dict[Codebook, list[int]]:
        """Each codebook and its depths."""
        found: dict[Codebook, list[int]] = {}
        for q, book in enumerate(self._books):
            found.setdefault(book, []).append(q)
        return found

    @property
    def _books(self) -> list[Codebook]:
        return list(self.books)  # type: ignore[arg-type]  # a ModuleList forgets what its modules are

    @property
    def vectors(self) -> Float[Tensor, "K D"]:
        """There is no one table of vectors.

        Raises:
            TypeError: always; says what can be asked instead.
        """
        raise TypeError(
            f"a sum of {self.depth} vectors has no single table of K vectors, so distances to all codes (SoftmaxDistance, an entropy term) cannot be had: "
            "take NearestCode, Factorised or Autoregressive, whose codes are the N Q sites"
        )

    @property
    def codes(self) -> int:
        """K, at each depth."""
        return self._books[0].codes

    @property
    def width(self) -> int:
        """D."""
        return self._books[0].width

    def forward(self, z: Int[Tensor, "*B S"]) -> Float[Tensor, "*B N D"]:
        """e = sum_q e_{q z_q}, for the S = N Q codes of N vectors."""
        return sum(book(part) for book, part in zip(self._books, self._by_depth(z), strict=True))

    def mix(self, y: Float[Tensor, "*B S K"]) -> Float[Tensor, "*B N D"]:
        """The sum of the embeddings of relaxed codes."""
        parts = y.unflatten(-2, (-1, self.depth)).unbind(-2)
        return sum(book.mix(part) for book, part in zip(self._books, parts, strict=True))  # type: ignore[return-value]

    def nearest(self, h: Float[Tensor, "*B N D"], cardinalities: Sequence[int] | None = None) -> Int[Tensor, "*B S"]:
        """Greedily, depth by depth; ``cardinalities`` are those of the N Q sites."""
        z = []
        with torch.no_grad():
            for q, book in enumerate(self._books):
                z.append(book.nearest(h, None if cardinalities is None else cardinalities[q :: self.depth]))
                h = h - book(z[-1])
        return torch.stack(z, -1).flatten(-2)

    def assigned(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B S"]) -> tuple[Float[Tensor, "B S D"], Float[Tensor, "B S D"]]:
        """Residuals r_q, with a gradient in h alone, and vectors e_q."""
        e = torch.stack([book(part) for book, part in zip(self._books, self._by_depth(z), strict=True)], -2)
        before = e.detach().cumsum(-2) - e.detach()
        return (h.unsqueeze(-2) - before).flatten(-3, -2), e.flatten(-3, -2)

    def _by_depth(self, z: Int[Tensor, "*B S"]) -> Sequence[Int[Tensor, "*B N"]]:
        """The codes of each depth.

        Raises:
            ValueError: the number of sites is no multiple of Q.
        """
        if z.shape[-1] % self.depth:
            raise ValueError(f"{z.shape[-1]} sites do not hold {self.depth} codes for each vector: give the prior N Q sites")
        return z.unflatten(-1, (-1, self.depth)).unbind(-1)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B S"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """Those of each codebook, for the residuals of its depths, their keys behind its number; while one waits for its first outputs, h itself."""
        with torch.no_grad():
            residuals = self.assigned(h, z)[0]
        residuals, z = (rearrange(t, "b (n q) ... -> b n q ...", q=self.depth) for t in (residuals, z))
        rows = {"h": h.detach(), "index": index} if any(book.waits for book in self._books) else {}
        for number, (book, depths) in enumerate(self._distinct.items()):
            found = book.statistics(residuals[:, :, depths].flatten(1, 2), z[:, :, depths].flatten(1, 2), index)
            rows |= {f"{number}.{key}": value for key, value in found.items()}
        return rows

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Each codebook learns from its own rows; those that wait for their first outputs begin one after the other, on what those before them leave over."""
        if "h" in statistics:
            self._begin(statistics["h"], statistics["index"], seed, step)
            return
        for number, book in enumerate(self._distinct):
            prefix = f"{number}."
            book.update({key.removeprefix(prefix): value for key, value in statistics.items() if key.startswith(prefix)}, seed, step)

    def _begin(self, h: Float[Tensor, "B N D"], index: Int[Tensor, " B"], seed: int, step: int) -> None:
        for book in self._books:
            if book.waits:
                book.begin(h, index, seed, step)
            h = h - book(book.nearest(h))
