"""How a picture becomes x: which square of it is shown, mirrored or not, in which units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from latentcomp.data.pictures import Filter
from latentcomp.noise import Noise

_PLACES = 20201217  # the seed of the fixed places of held-out crops: the data set's own, not a run's
_STREAM = 0x5EED_C0DE  # keeps the augmentation's numbers apart from those of the order and of the updates


@dataclass(frozen=True)
class View:
    """A square crop of a resized picture.

    Attributes:
        crop: the side of the square, in pixels: the size of x.
        resize: the shorter side of the picture before it is cropped; None for ``crop``, so that as much as possible of it is seen.
        crops: squares of each picture in an epoch, and of each held-out picture: there the centre if one, else as many fixed places.
        flip: whether training shows every other square mirrored, left for right.
        channels: 1 for grey, 3 for colour.
        signed: pixels in [-1, 1], as VQGAN and LPIPS want them; else in [0, 1].
        enlarge: whether a picture whose shorter side has less than ``resize`` pixels is enlarged; else it is left out, and reported.
        strict: whether a picture of other channels is left out, and reported, instead of converted.
        filter: of resizing, with Pillow's antialiasing: ``bicubic``, or ``bilinear``, by which the published FIDs' pictures were made smaller.
    """

    crop: int = 256
    resize: int | None = None
    crops: int = 1
    flip: bool = True
    channels: int = 3
    signed: bool = True
    enlarge: bool = False
    strict: bool = False
    filter: Filter = "bicubic"

    def __post_init__(self) -> None:
        if self.crop < 1 or self.crops < 1:
            raise ValueError(f"a view takes at least one square of at least one pixel, got crop={self.crop}, crops={self.crops}")
        if self.side < self.crop:
            raise ValueError(f"pictures resized to {self.resize} pixels hold no square of {self.crop}: resize must be at least crop")
        if self.filter not in get_args(Filter):
            raise ValueError(f"pictures are resized by {' or '.join(get_args(Filter))}, got filter={self.filter!r}")
        if self.channels not in (1, 3):
            raise ValueError(f"pictures have 1 channel (grey) or 3 (colour), got channels={self.channels}")

    @property
    def side(self) -> int:
        """The shorter side of a resized picture."""
        return self.crop if self.resize is None else self.resize

    def augmented(self, index: Int[Tensor, " B"], seed: int, epoch: int) -> Float[Tensor, "B 3"]:
        """What decides a training square: where it lies, down and across, and whether it is mirrored; a function of (seed, epoch, index)."""
        return Noise(seed ^ _STREAM, epoch, index).uniform((), (3,))

    def held_out(self, index: Int[Tensor, " B"]) -> Float[Tensor, "B 3"]:
        """The same for squares to judge by, which no seed changes and none of which is mirrored."""
        place = torch.full((len(index), 3), 0.5) if self.crops == 1 else Noise(_PLACES, 0, index).uniform((), (3,))
        return torch.cat([place[:, :2], torch.ones(len(index), 1)], 1)

    def cut(self, image: UInt8[Tensor, "C H W"], at: Sequence[float]) -> UInt8[Tensor, "C h w"]:
        """One square of a picture; of a label map the same."""
        top, left = (int(u * (extent - self.crop + 1)) for u, extent in zip(at, image.shape[1:], strict=False))
        square = image[:, top : top + self.crop, left : left + self.crop]
        return square.flip(-1) if self.flip and at[2] < 0.5 else square

    def pixels(self, squares: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Bytes as numbers in the units of x."""
        return squares.float() / 127.5 - 1 if self.signed else squares.float() / 255

    def shown(self, x: Float[Tensor, "*B C H W"]) -> Float[Tensor, "*B C H W"]:
        """Images in these units as numbers in [0, 1], to look at."""
        return ((x + 1) / 2 if self.signed else x).clamp(0, 1)
