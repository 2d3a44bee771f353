"""Between maps and sites: the N sites of a code sequence are the cells of an h x w grid, row by row.

Image networks speak of maps ``(B, F, h, w)``, the model of sequences ``(B, N, D)``. The 1x1 convolutions between the network's F features and the
codebook's D dimensions stand here too. Both classes work at any grid; the decoder keeps one for the model, which knows sequences only.
"""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described, made_with
from latentcomp.nn.unet import Decoder, Encoder


class SiteEncoder(Described, nn.Module):
    """Images to one vector h for each site, ``(B, h w, D)``.

    Args:
        encoder: images to maps ``(B, F, h, w)``.
        features: F.
        width: D.
    """

    def __init__(self, encoder: Encoder, features: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Conv2d(features, width, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        """The vectors, row by row."""
        return rearrange(self.project(self.encoder(x)), "b d h w -> b (h w) d")


class SiteDecoder(Described, nn.Module):
    """Embeddings ``(B, h w, D)`` to images.

    Args:
        decoder: maps ``(B, F, h, w)`` to images.
        width: D.
        features: F.
        grid: (h, w) of the model's own sequences.
    """

    def __init__(self, decoder: Decoder, width: int, features: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.decoder, self.grid = decoder, tuple(grid)
        self.project = nn.Conv2d(width, features, 1)

    @property
    def last_weight(self) -> Tensor:
        """Of the layer that makes the image: where VQGAN balances its gradients."""
        return self.decoder.last.weight

    def forward(self, e: Float[Tensor, "B N D"]) -> Float[Tensor, "B C H W"]:
        """The images of sequences that fill the model's own grid."""
        return self.at(e, self.grid)

    def of_grid(self, grid: Sequence[int]) -> "SiteDecoder":
        """The same decoder, weights and all, for a model of another grid."""
        other = copy.copy(self)
        other.grid = tuple(grid)
        made_with(other, grid=other.grid)
        return other

    def at(self, e: Float[Tensor, "B N D"], grid: Sequence[int]) -> Float[Tensor, "B C H W"]:
        """The images of sequences that fill another grid.

        Raises:
            ValueError: the sequences are too long or too short for it.
        """
        h, w = grid
        if e.shape[1] != h * w:
            raise ValueError(f"{e.shape[1]} sites do not fill a grid of {h} x {w} = {h * w}: say the grid (h, w) that the codes were made for")
        return self.decoder(self.project(rearrange(e, "b (h w) d -> b d h w", h=h, w=w)))


class Ordered(Described, nn.Module):
    """Another order of the sites: sequence position i holds the site ``order[i]`` of the grid.

    Args:
        order: ``(N,)`` long, a permutation of 0..N-1.

    Raises:
        ValueError: it is none.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self._places: tuple[int, ...] | None = None
        self.register_buffer("order", order.long())
        self.register_buffer("inverse", order.argsort())
        self.check()

    def check(self) -> None:
        """Refuses what is no order, as a loaded state may be.

        Raises:
            ValueError: the order is no permutation, or the inverse is not its own.
        """
        self._places = None
        if not torch.equal(self.order.sort().values, torch.arange(len(self.order), device=self.order.device)):
            raise ValueError(f"an order of {len(self.order)} sites must hold each of 0..{len(self.order) - 1} once")
        if not torch.equal(self.inverse, self.order.argsort()):
            raise ValueError("the order of the sites and the stored inverse do not belong together")

    @property
    def places(self) -> tuple[int, ...]:
        """The inverse as numbers of the host, read off the device once: distributions are made at every step."""
        if self._places is None:
            self._places = tuple(self.inverse.tolist())
        return self._places

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._places = None

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, N, ...)`` from raster order to this one."""
        self._check(rows)
        return rows[:, self.order]

    def undo(self, rows: Tensor) -> Tensor:
        """``(B, N, ...)`` from this order to raster order."""
        self._check(rows)
        return rows[:, self.inverse]

    def _check(self, rows: Tensor) -> None:
        if rows.shape[1] != len(self.order):
            raise ValueError(f"the order is one of {len(self.order)} sites, got sequences of {rows.shape[1]}")


class OrderedDecoder(Described, nn.Module):
    """A decoder whose embeddings stand in another order than the grid's.

    Args:
        decoder: maps embeddings in raster order to images.
        order: theirs.
    """

    def __init__(self, decoder: nn.Module, order: Ordered) -> None:
        super().__init__()
        self.decoder, self.order = decoder, order

    @property
    def last_weight(self) -> Tensor:
        """Of the layer that makes the image."""
        return cast(Tensor, self.decoder.last_weight)

    def forward(self, e: Float[Tensor, "B N D"]) -> Float[Tensor, "B C H W"]:
        """The images."""
        return self.decoder(self.order.undo(e))
