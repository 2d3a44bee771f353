"""A condition's codes as rows of a grid above those that are written: how a network of convolutions and attention reads a map.

Everything below and to the right sees them, as in a transformer all later positions see a prefix. The logits of z_i are those of its place in the taller grid,
so the loss is on z alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentcomp.nn.sequence import Cache, SequenceNetwork


class Stacked(SequenceNetwork[Cache]):
    """The last N sites of a network over M + N, given codes at the first M; the context of a row is these codes, ``(B, M)`` long.

    Args:
        network: over both grids, one above the other.
        cardinalities: K at each of the N sites, the same everywhere, at most the network's.

    Raises:
        ValueError: the network has no more sites than are to be written, or too few codes.
    """

    def __init__(self, network: SequenceNetwork, cardinalities: Sequence[int]) -> None:
        super().__init__(cardinalities, None)
        self.network, self.given = network, len(network.cardinalities) - len(self.cardinalities)
        if self.given < 1 or len(set(self.cardinalities)) != 1 or self.cardinalities[0] > min(network.cardinalities):
            raise ValueError(
                f"{len(self.cardinalities)} sites of {sorted(set(self.cardinalities))} codes are not the last of a network over {len(network.cardinalities)} "
                f"sites of {sorted(set(network.cardinalities))}: build it for the condition's sites, too, and for the larger vocabulary"
            )

    def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits of all sites in one pass."""
        r = self._codes(context).expand(*z.shape[:-1], -1)
        return self.network(torch.cat([r, z], -1))[..., self.given :, : self.cardinalities[0]]

    def _codes(self, context: Tensor | None) -> Tensor:
        if context is None or context.shape[-1] != self.given:
            got = "none" if context is None else tuple(context.shape)
            raise ValueError(f"this network was built for conditions of {self.given} codes (B, {self.given}); got {got}")
        return context

    def features(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Those of the prefixes that end among the written sites, where the network inside has some."""
        r = self._codes(context).expand(*z.shape[:-1], -1)
        return self.network.features(torch.cat([r, z], -1))[..., self.given :, :]

    def start(self, rows: int, context: Tensor | None = None) -> Cache:
        """The condition's codes are written down."""
        r = self._codes(context)
        r = r.repeat(rows // len(r), 1)
        return self.network.resume(rows, None, torch.cat([r, r[:, :1]], 1))  # what is read of given codes is all but the last

    def advance(self, cache: Cache, site: int, z: Tensor | None) -> Tensor:
        """Site 0 is about what the condition gives."""
        return self.network.advance(cache, self.given + site, z)[:, : self.cardinalities[0]]
