"""A causal transformer over code sequences, with a cache of keys and values.

Position 0 reads the context (or a learned start vector), position i the code z_i; the output at position i is about the codes after it. So logits of
all sites come from one pass over z shifted by one, and sampling feeds one position at a time to layers that remember keys and values (pre-layer-norm
blocks as in GPT-2: Radford et al., 2019).
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from latentcomp.described import Described
from latentcomp.nn.few_rows import linear
from latentcomp.nn.key_value import KeyValueCache, Slot, Step, looked_up, rooms
from latentcomp.nn.sequence import SequenceNetwork


class Block(Described, nn.Module):
    """Self-attention and a two-layer perceptron, each on a residual branch behind a layer norm.

    Args:
        width: W, a multiple of ``heads``.
        heads: the number of attention heads.
        dropout: of what either branch adds.
        attention_dropout: of the attention weights.

    Raises:
        ValueError: the heads do not share the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, attention_dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width ({width}) must be a multiple of the number of heads ({heads})")
        self.heads, self.attention_dropout = heads, attention_dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "R T W"], seen: Bool[Tensor, "T T"] | None = None) -> Float[Tensor, "R T W"]:
        """All positions at once, each seeing itself and those before it, or those that ``seen`` marks in its row."""
        q, k, v = self._qkv(h)
        rate = self.attention_dropout if self.training else 0.0
        return self._finish(h, scaled_dot_product_attention(q, k, v, seen, rate, is_causal=seen is None))

    def read(self, h: Float[Tensor, "R T W"], memory: Float[Tensor, "2 R heads C d"], seen: Bool[Tensor, "T T"] | None = None) -> Float[Tensor, "R T W"]:
        """As :meth:`forward`, of the first T positions, which leave their keys and values in the memory of a cache. Nothing drops out where one is kept."""
        q, k, v = self._qkv(h)
        memory[0, :, :, : h.shape[1]], memory[1, :, :, : h.shape[1]] = k, v
        h = h + self.out(scaled_dot_product_attention(q, k, v, seen, is_causal=seen is None).transpose(1, 2).flatten(2))
        return h + self.mlp(self.mlp_norm(h))

    def step(self) -> Step:
        """One position, which sees those before it and itself: a function that has looked up the block's parts, for the many steps of a walk."""
        attention_norm, mlp_norm, (first, gelu, second) = self.attention_norm, self.mlp_norm, self.mlp
        qkv, out, up, down = (linear(layer) for layer in (self.qkv, self.out, first, second))

        def step(h: Float[Tensor, "R W"], slot: Slot) -> Float[Tensor, "R W"]:
            q, kv = qkv(attention_norm(h)).view(len(h), 3, self.heads, -1).split((1, 2), 1)
            h = h + out(looked_up(q, kv, slot))
            return h + down(gelu(up(mlp_norm(h))))

        return step

    def _qkv(self, h: Tensor) -> tuple[Tensor, ...]:
        qkv = self.qkv(self.attention_norm(h))
        return qkv.view(*h.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()

    def _finish(self, h: Tensor, attended: Tensor) -> Tensor:
        h = h + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.mlp(self.mlp_norm(h)))


class CausalTransformer(SequenceNetwork[KeyValueCache]):
    """A causal transformer; every site has the same vocabulary, of the largest cardinality.

    Args:
        cardinalities: K_i of each of the N sites.
        context: H, the width of the context that position 0 reads; 0 for none.
        width: the width of the residual stream, a multiple of ``heads``.
        layers: the number of blocks.
        heads: the number of attention heads.
    """

    _missing: Tensor

    def __init__(self, cardinalities: Sequence[int], context: int = 0, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__(cardinalities, nn.Linear(context, width) if context else None)
        n, k = len(self.cardinalities), max(self.cardinalities)
        self.heads = heads
        self.start_vector = nn.Parameter(torch.zeros(width))
        self.tokens = nn.Embedding(k, width)
        self.positions = nn.Parameter(torch.zeros(n + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, k, bias=False)
        self.register_buffer("_missing", torch.arange(k) >= torch.tensor(self.cardinalities).unsqueeze(-1), persistent=False)
        self.apply(initialise)
        nn.init.normal_(self.positions, std=0.02)

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The normalised residual stream after each of the N + 1 prefixes."""
        return self._stream(z, context)

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        logits = self.head(self._stream(z[..., :-1], context))
        return logits.masked_fill(self._missing, float("-inf"))

    def _stream(self, z: Tensor, context: Tensor | None) -> Tensor:
        rows = z.shape[:-1]
        first = self._first(context).expand(*rows, -1).unsqueeze(-2)
        h = torch.cat([first, self.tokens(z)], -2) + self.positions[: z.shape[-1] + 1]
        h = h.reshape(-1, *h.shape[-2:])
        for block in self.blocks:
            h = block(h)
        return self.norm(h).view(*rows, *h.shape[-2:])

    def _first(self, context: Tensor | None) -> Tensor:
        read = self._read(context)
        return self.start_vector if read is None else self.start_vector + read

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> KeyValueCache:
        """Room for the keys and values of the first positions in every row."""
        return self._empty(rows, context, 1)

    def _empty(self, rows: int, context: Tensor | None, positions: int) -> KeyValueCache:
        first = self._first(context)
        first = first.expand(rows, -1) if first.ndim == 1 else first.repeat(rows // len(first), 1)
        n = len(self.cardinalities)
        steps = [cast(Block, block).step() for block in self.blocks]
        return KeyValueCache(rooms(first, len(steps), self.heads, positions, n), first, n, steps)

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> KeyValueCache:
        """Context and codes in one pass."""
        cache = self._empty(rows, context, given.shape[1])
        h = torch.cat([cache.first.unsqueeze(1), self.tokens(given[:, :-1])], 1) + self.positions[: given.shape[1]]
        for block, memory in zip(self.blocks, cache.memory, strict=True):
            h = cast(Block, block).read(h, memory)
        return cache

    def advance(self, cache: KeyValueCache, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """Position ``site`` of the stream: the context at site 0, else the code chosen at the site before."""
        h = (cache.first if z is None else self.tokens(z)) + self.positions[site]
        return linear(self.head)(self.norm(cache.through(h, site))).masked_fill(self._missing[site], float("-inf"))


def initialise(module: nn.Module) -> None:
    """GPT-2's: normal weights of standard deviation 0.02, no bias."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
