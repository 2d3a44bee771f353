"""A multilayer perceptron over prefixes that reads the image where the site lies.

``PrefixMLP`` gives every site the same features of the whole image. Where sites lie on a grid, as codes of an image do, site i mostly needs what is at its
own place: here the context is one feature vector h_i(x) for each site, read when that site's turn comes,

    q(z_i | z_<i, x) = f_i(sum_{j<i} W_j[z_j], h_i(x)),

with h from a convolutional encoder whose last grid is that of the sites. What a vector quantiser's encoder knows about a site, this policy starts from; and
unlike the quantiser it sees the codes chosen before.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from latentcomp.nn.prefix_mlp import PrefixMLP, PrefixSum


class SiteMLP(PrefixMLP):
    """Prefix -> two layers; joined with the site's features -> two layers; one linear head for each site.

    Args:
        cardinalities: K_i of each of the N sites.
        features: F, the width of a site's features; the context holds them site by site, ``(B, N F)``.
        width: the width of the hidden layers.
    """

    def __init__(self, cardinalities: Sequence[int], features: int, width: int = 128) -> None:
        super().__init__(cardinalities, features, width)

    def _sites(self, context: Float[Tensor, "B NF"] | None) -> Float[Tensor, "B N F"]:
        """The site's features, as wide as the hidden layers.

        Raises:
            ValueError: there is no context, or it does not hold F features for each site.
        """
        sites = len(self.cardinalities)
        if context is None or context.shape[-1] % sites:
            got = "no context" if context is None else f"a context of width {context.shape[-1]}"
            raise ValueError(f"SiteMLP reads F features of each of its {sites} sites, side by side as (B, {sites} F); got {got}: use ConvSites as the trunk")
        return cast(Tensor, self._read(context.unflatten(-1, (sites, -1))))

    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """The last hidden layer of all N + 1 prefixes; after the last site, whose features there are none of, their mean stands for them."""
        shared = self._sites(context)
        return self._features(self._sums(z), torch.cat([shared, shared.mean(-2, keepdim=True)], -2))

    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass."""
        hidden = self._features(self._sums(z)[..., :-1, :], self._sites(context))
        return torch.einsum("...nf,nfk->...nk", hidden, self.head) + self._bias()

    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> PrefixSum:
        """An empty sum for each row; the features of all sites enter once."""
        shared = self._sites(context)
        return PrefixSum(self.rows.new_zeros(rows, self.rows.shape[-1]), shared.repeat(rows // len(shared), 1, 1))

    def advance(self, cache: PrefixSum, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The chosen code's row joins the sum; the next site's features and head read it."""
        if z is not None:
            cache.total = cache.total + self.rows[site - 1, z]
        here = None if cache.shared is None else cache.shared[:, site]
        return self._features(cache.total, here) @ self.head[site] + self._bias()[site]


class SpreadMLP(SiteMLP):
    """A ``SiteMLP`` for data without a grid: one vector for the whole datum is spread out into features of each site, once a datum.

    The layers that read prefixes run for each sample and site, those that read x once a datum. So what differs from site to site in x is worked out here,
    where it is cheap, and the former can be narrow.

    Args:
        cardinalities: K_i of each of the N sites.
        context: H, the width of the context.
        width: F, of a site's features and of the hidden layers.
    """

    def __init__(self, cardinalities: Sequence[int], context: int, width: int = 64) -> None:
        super().__init__(cardinalities, width, width)
        self.spread = nn.Linear(context, len(self.cardinalities) * width)

    def _sites(self, context: Float[Tensor, "B H"] | None) -> Float[Tensor, "B N F"]:
        """The site's features.

        Raises:
            ValueError: there is no context, or one of another width.
        """
        got = "no context" if context is None else f"one of width {context.shape[-1]}"
        if context is None or context.shape[-1] != self.spread.in_features:
            raise ValueError(f"SpreadMLP was built for a context of width {self.spread.in_features} and got {got}: give it context=H, the trunk's width")
        return super()._sites(silu(self.spread(context)))
