"""A causal transformer as they are built today, over a condition's codes and then z: rotary positions, RMS norms, gated perceptrons, no biases.

Parts: RoPE (Su et al., 2021), in two dimensions as LlamaGen has it (Sun et al., 2024): half of each head turns with a site's row, half with its column;
RMSNorm (Zhang and Sennrich, 2019); SwiGLU (Shazeer, 2020). The condition has a vocabulary of its own, whose last code means "no condition": what
classifier-free guidance (Ho and Salimans, 2022) learns and reads. Its codes do not turn, and so mark the origin.

It reads [r, z] as ``GPT`` does and differs from it in its parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from latentcomp.described import Described
from latentcomp.nn.few_rows import linear
from latentcomp.nn.key_value import PrefixedCache, Slot, Step, looked_up, rooms
from latentcomp.nn.prefix import ConditionCodes
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.transformer import initialise


@dataclass(frozen=True)
class Width:
    """How large the network is.

    Attributes:
        width: of the residual stream, a multiple of ``heads``, each head a multiple of four.
        layers: the number of blocks.
        heads: the number of attention heads.
        dropout: of what a residual branch adds.
    """

    width: int = 256
    layers: int = 6
    heads: int = 8
    dropout: float = 0.0


def rotations(places: Int[Tensor, "T 2"], width: int, base: float = 10_000.0) -> Float[Tensor, "2 T d"]:
    """Cosines and sines of the angles by which pairs of a head's coordinates turn: row times frequency, then column times frequency."""
    frequencies = base ** (-torch.arange(0, width // 2, 2, dtype=torch.float64) / (width // 2))
    angles = (places.double().unsqueeze(-1) * frequencies.to(places.device)).flatten(1)
    return torch.stack([angles.cos(), angles.sin()]).repeat_interleave(2, -1).to(torch.get_default_dtype())


def turned(x: Float[Tensor, "*rows T d"], rotation: Float[Tensor, "2 #T d"]) -> Float[Tensor, "*rows T d"]:
    """Each pair of coordinates turned by its angle."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * rotation[0] + torch.stack([-b, a], -1).flatten(-2) * rotation[1]


def gated(x: Float[Tensor, "*rows G"]) -> Float[Tensor, "*rows H"]:
    """The second half, let through by the first."""
    gate, up = x.chunk(2, -1)
    return silu(gate) * up


class ModernBlock(Described, nn.Module):
    """Attention and a gated perceptron, each on a residual branch behind an RMS norm.

    Args:
        size: of the network.

    Raises:
        ValueError: the heads do not share the width, or their own is no multiple of four.
    """

    def __init__(self, size: Width) -> None:
        super().__init__()
        width = size.width
        if width % (4 * size.heads):
            raise ValueError(f"{size.heads} heads must share the width ({width}), a multiple of four each: rows and columns turn pairs of it")
        self.heads, hidden = size.heads, 32 * -(-width * 8 // (3 * 32))
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, h: Float[Tensor, "R T W"], rotation: Float[Tensor, "2 T d"]) -> Float[Tensor, "R T W"]:
        """All positions at once, each seeing itself and those before it."""
        q, k, v = self._qkv(h, rotation)
        return self._finish(h, scaled_dot_product_attention(q, k, v, is_causal=True))

    def read(self, h: Float[Tensor, "R T W"], rotation: Float[Tensor, "2 T d"], memory: Float[Tensor, "2 R heads C d"]) -> Float[Tensor, "R T W"]:
        """As :meth:`forward`, of the first T positions, which leave their keys and values in the memory of a cache. Nothing drops out where one is kept."""
        q, k, v = self._qkv(h, rotation)
        memory[0, :, :, : h.shape[1]], memory[1, :, :, : h.shape[1]] = k, v
        h = h + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return h + self.down(gated(self.gate(self.mlp_norm(h))))

    def step(self, rotations: Sequence[Float[Tensor, "2 1 d"]]) -> Step:
        """One position, which sees those before it and itself: a function that has looked up the block's parts, for the many steps of a walk."""
        attention_norm, mlp_norm = self.attention_norm, self.mlp_norm
        qkv, out, gate, down = (linear(layer) for layer in (self.qkv, self.out, self.gate, self.down))

        def step(h: Float[Tensor, "R W"], slot: Slot) -> Float[Tensor, "R W"]:
            parts = qkv(attention_norm(h)).view(len(h), 3, self.heads, -1)
            parts[:, :2] = turned(parts[:, :2], rotations[slot.position])
            q, kv = parts.split((1, 2), 1)
            h = h + out(looked_up(q, kv, slot))
            return h + down(gated(gate(mlp_norm(h))))

        return step

    def _qkv(self, h: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.attention_norm(h)).view(*h.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        return turned(q, rotation), turned(k, rotation), v

    def _finish(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.down(gated(self.gate(self.mlp_norm(h)))))


class ModernTransformer(SequenceNetwork[PrefixedCache]):
    """Logits of z_i from z_<i and the condition's codes; the context of a row is r, ``(B, M)`` long, or None for no condition.

    Args:
        cardinalities: K at each of the N sites, the same everywhere.
        size: width, layers, heads, dropout.
        conditions: (C, M), the condition's vocabulary and its number of codes; (0, 1) for none.
        grid: (h, w) that the sites fill; None for a plain sequence.
        order: ``(N,)`` the raster numbers of the sites in the order in which they are written; None for row by row.

    Raises:
        ValueError: the sites differ, do not fill the grid, or the order is one of others.
    """

    _rotation: Tensor
    _order: Tensor | None

    def __init__(
        self,
        cardinalities: Sequence[int],
        size: Width | None = None,
        conditions: tuple[int, int] = (0, 1),
        grid: Sequence[int] | None = None,
        order: Int[Tensor, " N"] | None = None,
    ) -> None:
        super().__init__(cardinalities, None)
        n, self.size = len(self.cardinalities), Width() if size is None else size
        h, w = (1, n) if grid is None else grid
        if len(set(self.cardinalities)) != 1 or h * w != n:
            raise ValueError(f"ModernTransformer wants the same K at all {h * w} sites of its {h}x{w} grid; got {n} sites of {sorted(set(self.cardinalities))}")
        sites = torch.arange(n) if order is None else order
        if not torch.equal(sites.sort().values.cpu(), torch.arange(n)):
            raise ValueError(f"an order of {n} sites must hold each of 0..{n - 1} once")
        self.condition = ConditionCodes(*conditions, self.size.width)
        places = torch.cat([torch.zeros(conditions[1], 2, dtype=torch.long), torch.stack([sites // w + 1, sites % w + 1], -1)])
        self.register_buffer("_rotation", rotations(places, self.size.width // self.size.heads), persistent=False)
        self.register_buffer("_order", None if grid is None and order is None else sites.long(), persistent=False)
        self.tokens = nn.Embedding(self.cardinalities[0], self.size.width)
        self.blocks = nn.ModuleList(ModernBlock(self.size) for _ in range(self.size.layers))
        self.norm, self.head = nn.RMSNorm(self.size.width, eps=1e-6), nn.Linear(self.size.width, self.cardinalities[0], bias=False)
        self.apply(initialise)

    @property
    def order(self) -> Int[Tensor, " N"] | None:
        """That of the constructor, row by row where a grid came without one; None for a plain sequence."""
        return self._order

    def forward(self, z: Int[Tensor, "*rows N"], context: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        return self.head(self._stream(z[..., :-1], context))

    def features(self, z: Int[Tensor, "*rows N"], context: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The normalised residual stream after each of the N + 1 prefixes."""
        return self._stream(z, context)

    def _stream(self, z: Tensor, context: Tensor | None) -> Tensor:
        r = self._codes_of(context).expand(*z.shape[:-1], -1)
        h = self._embedded(r.reshape(-1, r.shape[-1]), z.reshape(-1, z.shape[-1]))
        for block in self.blocks:
            h = block(h, self._rotation[:, : h.shape[1]])
        return self.norm(h[:, r.shape[-1] - 1 :]).view(*z.shape[:-1], z.shape[-1] + 1, -1)

    def _codes_of(self, context: Tensor | None) -> Tensor:
        return self.condition.null() if context is None else context

    def _embedded(self, r: Tensor, z: Tensor) -> Tensor:
        return torch.cat([self.condition(r), self.tokens(z)], 1)

    def check_condition(self, context: Int[Tensor, "B M"]) -> None:
        """Refuses codes outside the condition's vocabulary.

        Raises:
            ValueError: as :meth:`ConditionCodes.check`.
        """
        self.condition.check(context)

    def null(self, context: Tensor) -> Tensor:
        """The code for no condition in place of each of the condition's."""
        return self.condition.null(len(context))

    def start(self, rows: int, context: Int[Tensor, "B M"] | None = None) -> PrefixedCache:
        """The condition's keys and values, computed once for each condition."""
        r = self._codes_of(context)
        return self._read_at_once(r, r[:, :0]).tiled(rows // len(r))

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> PrefixedCache:
        """Condition and codes in one pass."""
        r = self._codes_of(context)
        return self._read_at_once(r.repeat(rows // len(r), 1), given[:, :-1])

    def _read_at_once(self, r: Tensor, z: Tensor) -> PrefixedCache:
        h, condition = self._embedded(r, z), r.shape[1]
        limit = condition + len(self.cardinalities) - 1
        memory = rooms(h, len(self.blocks), self.size.heads, h.shape[1], limit)
        for block, part in zip(self.blocks, memory, strict=True):
            h = cast(ModernBlock, block).read(h, self._rotation[:, : h.shape[1]], part)
        rotations = self._rotation.unsqueeze(2).unbind(1)
        steps = [cast(ModernBlock, block).step(rotations) for block in self.blocks]
        return PrefixedCache(memory, h[:, condition - 1], limit, steps, condition)

    def advance(self, cache: PrefixedCache, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """Site 0 is about what the condition gives; from then on the code chosen before is read at the next position."""
        h = cache.first
        if z is not None:
            position = cache.prefix + site - 1
            h = cache.through(self.tokens(z), position)
        return linear(self.head)(self.norm(h))
