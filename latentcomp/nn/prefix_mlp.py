"""A multilayer perceptron over prefixes: the policy network of GFlowNet-EM (Hu et al., 2023, appendix D), scored in one pass.

The paper's network reads the prefix as a dense one-hot vector of N K entries. The first layer's product with it is a sum of one weight row for each
code chosen so far, so the N prefixes of a sequence are N partial sums of the same rows: an exclusive cumulative sum scores them all, and the running
sum is the whole cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.nn.sequence import Cache, SequenceNetwork


@dataclass
class PrefixSum(Cache):
    """The sum of the rows of the codes chosen so far, and the context's share of the layer that joins both."""

    total: Tensor
    shared: Tensor | None

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all."""
        self.total = self.total[rows]
        self.shared = None if self.shared is None else self.shared[rows]


class PrefixMLP(SequenceNetwork[PrefixSum]):
    """Prefix -> two layers; joined with the context -> two layers; one linear head for each site.

    Args:
        cardinalities: K_i of each of the N sites.
        context: H, the width of the context; 0 for none.
        width: the width of the hidden layers.
    """

    _missing: Tensor

    def __init__(self, cardinalities: Sequence[int], context: int = 0, width: int = 128) -> None:
        super().__init__(cardinalities, nn.Linear(context, width, bias=False) if context else None)
        n, k = len(self.cardinalities), max(self.cardinalities)
        self.rows = nn.Parameter(torch.randn(n, k, width) * (n * k) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(width))
        self.prefix = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.joined = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Parameter(torch.randn(n, width, k) * width**-0.5)
        missing = torch.arange(k) >= torch.tensor(self.cardinalities).unsqueeze(-1)
        self.head_bias = nn.Parameter(torch.zeros(n, k))
        self.register_buffer("_missing", missing, persistent=False)

    def _sums(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N1 F"]:
        """The sums over z_<1, z_<2, ..., z_<N+1."""
        chosen = self.rows[torch.arange(len(self.cardinalities), device=z.device), z]
        return torch.cat([torch.zeros_like(chosen[..., :1, :]), chosen.cumsum(-2)], -2)

    def _features(self, sums: Tensor, shared: Tensor | None) -> Tensor:
        hidden = self.prefix(sums + self.bias)
        return self.joined(hidden if shared is None else hidden + shared)

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The last hidden layer of all N + 1 prefixes."""
        shared = self._read(context)
        return self._features(self._sums(z), None if shared is None else shared.unsqueeze(-2))

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        shared = self._read(context)
        hidden = self._features(self._sums(z)[..., :-1, :], None if shared is None else shared.unsqueeze(-2))
        return torch.einsum("...nf,nfk->...nk", hidden, self.head) + self._bias()

    def _bias(self) -> Float[Tensor, "N K"]:
        return self.head_bias.masked_fill(self._missing, float("-inf"))

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> PrefixSum:
        """An empty sum for each row; the context enters once."""
        shared = self._read(context)
        if shared is not None:
            shared = rearrange(shared.expand(rows // len(shared), *shared.shape), "s b f -> (s b) f")
        return PrefixSum(self.rows.new_zeros(rows, self.rows.shape[-1]), shared)

    def advance(self, cache: PrefixSum, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The chosen code's row joins the sum; the head of the next site reads it."""
        if z is not None:
            cache.total = cache.total + self.rows[site - 1, z]
        return self._features(cache.total, cache.shared) @ self.head[site] + self._bias()[site]
