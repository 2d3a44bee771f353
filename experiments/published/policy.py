"""The policy network of GFlowNet-EM's published code (GFNOrg/GFlowNet-EM, discrete_vae), scored in one pass.

The prefix enters as N K one-hot numbers, the network gives logits of all N K (code, site) actions, and a softmax over all of them is taken before the slice
of the next site is cut out. 10^-9 is added to each probability of the slice before it is normalised. So the floor is relative to the slice's mass S_i, which
logits of other sites can starve: the probability of a code never falls below about 10^-9 / S_i. The library's own networks take the softmax of the slice.

The published code runs the image encoder and this network anew for each of the 16 sites. Here the image is read once, and the first layer's product with
the prefix is a partial sum of its columns, so that all prefixes are scored in one pass; the numbers are the same.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.nn.prefix_mlp import PrefixSum
from latentcomp.nn.sequence import SequenceNetwork

FLOOR = 1e-9


class PublishedPolicy(SequenceNetwork[PrefixSum]):
    """74,304 parameters for 16 sites of K = 8 at width 128.

    Args:
        cardinalities: K at each of the N sites, the same everywhere.
        width: C; the context has C / 2 features.
    """

    def __init__(self, cardinalities: Sequence[int], width: int = 128) -> None:
        joined = nn.Linear(width, width)  # reads image and prefix side by side; its two halves are kept apart, so that the image's is computed once
        super().__init__(cardinalities, nn.Linear(width // 2, width, bias=False))
        n, k = len(self.cardinalities), max(self.cardinalities)
        self.first = nn.Linear(n * k, width)
        self.prefix = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 2))
        self.joined = nn.Linear(width // 2, width)
        self.head = nn.Linear(width, n * k)
        with torch.no_grad():
            for half, part in zip((self.context, self.joined), joined.weight.chunk(2, 1), strict=True):
                if half is not None:
                    half.weight.copy_(part)
            self.joined.bias.copy_(joined.bias)

    @property
    def _columns(self) -> Float[Tensor, "N K F"]:
        return rearrange(self.first.weight, "f (k n) -> n k f", n=len(self.cardinalities))

    def _logits(self, total: Tensor, shared: Tensor | None) -> Float[Tensor, "*rows N K"]:
        """log(softmax over all actions + 10^-9) after the prefixes with these sums."""
        hidden = self._hidden(total, shared)
        every = self.head(hidden).float() if hidden.dtype != torch.float64 else self.head(hidden)
        return rearrange((every.softmax(-1) + FLOOR).log(), "... (k n) -> ... n k", n=len(self.cardinalities))

    def _hidden(self, total: Tensor, shared: Tensor | None) -> Tensor:
        hidden = self.joined(self.prefix(total + self.first.bias))
        return (hidden if shared is None else hidden + shared).relu()

    def _sums(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N1 F"]:
        chosen = self._columns[torch.arange(z.shape[-1], device=z.device), z]
        return torch.cat([torch.zeros_like(chosen[..., :1, :]), chosen.cumsum(-2)], -2)

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The last hidden layer of all N + 1 prefixes."""
        shared = self._read(context)
        return self._hidden(self._sums(z), None if shared is None else shared.unsqueeze(-2))

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        shared = self._read(context)
        every = self._logits(self._sums(z)[..., :-1, :], None if shared is None else shared.unsqueeze(-2))
        return every.diagonal(dim1=-3, dim2=-2).movedim(-1, -2)  # after i codes, the slice of site i

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> PrefixSum:
        """An empty sum for each row."""
        shared = self._read(context)
        if shared is not None:
            shared = shared.repeat(rows // len(shared), 1)
        return PrefixSum(self.first.weight.new_zeros(rows, self.first.out_features), shared)

    def advance(self, cache: PrefixSum, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The chosen code's column joins the sum."""
        if z is not None:
            cache.total = cache.total + self._columns[site - 1, z]
        return self._logits(cache.total, cache.shared)[:, site]
