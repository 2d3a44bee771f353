"""GPT over a condition and the codes it is for: the second stage of Taming Transformers (Esser et al., 2021, section 3.2; network after minGPT).

One sequence [r, z]: the M codes r of the condition, then the N codes z, in one vocabulary and one table of learned positions. The logits at the position
before z_i are those of p(z_i | z_<i, r), so N + M - 1 positions are read in all and the last code never is. The first ``visible`` codes of the condition
may see each other in both directions.

It differs from ``CausalTransformer`` in what comes before z, codes instead of a context vector, and shares its blocks.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.described import made_with
from latentcomp.nn.few_rows import linear
from latentcomp.nn.key_value import PrefixedCache, rooms
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.transformer import Block, initialise


class Dropout(NamedTuple):
    """Rates: of the embeddings, of what a residual branch adds, of the attention weights."""

    embedding: float = 0.0
    residual: float = 0.0
    attention: float = 0.0


NO_DROPOUT = Dropout()


@dataclass(frozen=True)
class Size:
    """How large the network is.

    Attributes:
        vocabulary: V, the codes that r and z share.
        positions: the longest sequence it reads, at least M + N - 1.
        width: of the residual stream, a multiple of ``heads``.
        layers: the number of blocks.
        heads: the number of attention heads.
    """

    vocabulary: int
    positions: int
    width: int
    layers: int
    heads: int


class GPT(SequenceNetwork[PrefixedCache]):
    """Logits of z_i from z_<i and the condition's codes r; the context of a row is r, ``(B, M)`` long.

    Args:
        cardinalities: K at each of the N sites, the same everywhere; V may be larger, where conditions take more codes.
        size: vocabulary, positions, width, layers, heads.
        dropout: three rates.
        visible: how many of the condition's codes see each other in both directions.
        start: the code that stands for r where there is no condition.

    Raises:
        ValueError: the sites differ, have more codes than the vocabulary, or are more than the positions.
    """

    def __init__(self, cardinalities: Sequence[int], size: Size, dropout: Dropout = NO_DROPOUT, visible: int = 0, start: int | None = None) -> None:
        super().__init__(cardinalities, None)
        self.size, self.visible, self.start_code = size, visible, start
        self._check_sites()
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Parameter(torch.zeros(size.positions, size.width))
        self.blocks = nn.ModuleList(Block(size.width, size.heads, dropout.residual, dropout.attention) for _ in range(size.layers))
        self.norm, self.head = nn.LayerNorm(size.width), nn.Linear(size.width, size.vocabulary, bias=False)
        self.dropout = nn.Dropout(dropout.embedding)
        self.apply(initialise)

    def _check_sites(self) -> None:
        if len(set(self.cardinalities)) != 1 or self.cardinalities[0] > self.size.vocabulary:
            raise ValueError(f"GPT wants the same K <= V={self.size.vocabulary} at all sites; got cardinalities {sorted(set(self.cardinalities))}")
        if len(self.cardinalities) > self.size.positions:
            raise ValueError(f"{len(self.cardinalities)} codes after a condition need as many positions or more; the network has {self.size.positions}")

    def of_length(self, sites: int) -> "GPT":
        """The same network, weights and all, for sequences of another number of sites.

        Raises:
            ValueError: it has too few positions.
        """
        if sites < 1:
            raise ValueError(f"a sequence has at least one code, got {sites}")
        other = copy.copy(self)
        other.cardinalities = self.cardinalities[:1] * sites
        other._check_sites()
        made_with(other, cardinalities=other.cardinalities)
        return other

    def forward(self, z: Int[Tensor, "*rows N"], context: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass, for the K codes that sites have."""
        r = self._codes_of(context, z).expand(*z.shape[:-1], -1)
        logits = self.logits(z.reshape(-1, z.shape[-1]), r.reshape(-1, r.shape[-1]))
        return logits[..., : self.cardinalities[0]].view(*z.shape, -1)

    def logits(self, z: Int[Tensor, "R T"], r: Int[Tensor, "R M"]) -> Float[Tensor, "R T V"]:
        """Logits over the whole vocabulary; those at t are about z_t, given r and the codes before t.

        Raises:
            ValueError: a code lies outside the vocabulary (on an accelerator the device's own assertion says so), or the sequence is too long.
        """
        condition = r.shape[1]
        h = self.dropout(self._embedded(torch.cat([r, z[:, :-1]], 1), 0))
        seen = self._seen(condition, h)
        for block in self.blocks:
            h = block(h, seen)
        return self.head(self.norm(h[:, condition - 1 :]))

    def _codes_of(self, context: Tensor | None, like: Tensor) -> Tensor:
        if context is not None:
            return context
        if self.start_code is None:
            raise ValueError("this network was trained with a condition: pass its codes r (B, M), or build it with a start code")
        return torch.tensor([[self.start_code]], device=like.device)

    def _embedded(self, codes: Tensor, position: int) -> Tensor:
        end = position + codes.shape[1]
        if end > self.size.positions:
            raise ValueError(f"the network reads at most {self.size.positions} codes, those of the condition among them; got {end}: shorten the sequence")
        try:
            return self.tokens(codes) + self.positions[position:end]
        except IndexError:
            raise ValueError(
                f"codes and conditions must lie in the vocabulary 0..{self.size.vocabulary - 1}; got values from {int(codes.min())} to {int(codes.max())}"
            ) from None

    def _seen(self, condition: int, h: Tensor) -> Bool[Tensor, "T T"] | None:
        """What each position sees; None says: what comes before it."""
        if not self.visible:
            return None
        if self.visible > condition:
            raise ValueError(
                f"the first {self.visible} codes see each other, but the condition has only {condition}: codes would see those that they are to predict"
            )
        seen = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()
        seen[: self.visible, : self.visible] = True
        return seen

    def features(self, z: Int[Tensor, "*rows N"], context: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """Refused: the last code is never read.

        Raises:
            TypeError: always; names a network that has them.
        """
        raise TypeError("GPT has no position for the complete sequence, whose features a flow head reads: use CausalTransformer")

    def start(self, rows: int, context: Int[Tensor, "B M"] | None = None) -> PrefixedCache:
        """The condition's keys and values, computed once for each condition."""
        r = self._codes_of(context, self.positions)
        return self._read_at_once(r, r.shape[1]).tiled(rows // len(r))

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> PrefixedCache:
        """Condition and codes in one pass."""
        r = self._codes_of(context, self.positions)
        return self._read_at_once(torch.cat([r.repeat(rows // len(r), 1), given[:, :-1]], 1), r.shape[1])

    def _read_at_once(self, codes: Int[Tensor, "R T"], condition: int) -> PrefixedCache:
        h, limit = self._embedded(codes, 0), condition + len(self.cardinalities) - 1
        seen = self._seen(condition, h)
        memory = rooms(h, len(self.blocks), self.size.heads, h.shape[1], limit)
        for block, part in zip(self.blocks, memory, strict=True):
            h = cast(Block, block).read(h, part, seen)
        return PrefixedCache(memory, h[:, condition - 1], limit, [cast(Block, block).step() for block in self.blocks], condition)

    def null(self, context: Tensor) -> Tensor:
        """The start code in place of each of the condition's.

        Raises:
            TypeError: the network was built without one.
        """
        return super().null(context) if self.start_code is None else torch.full_like(context, self.start_code)

    def advance(self, cache: PrefixedCache, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """Site 0 is about what the condition gives; from then on the code chosen before is read at the next position."""
        h = cache.first
        if z is not None:
            position = cache.prefix + site - 1
            h = cache.through(self._embedded(z.unsqueeze(1), position).squeeze(1), position)
        return linear(self.head)(self.norm(h))[:, : self.cardinalities[0]]
