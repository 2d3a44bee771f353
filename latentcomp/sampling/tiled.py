"""Large images encoded and decoded in tiles, in memory that does not grow with the image.

Tiles overlap. Encoding keeps of each tile the codes that lie farther from its border than from any neighbour's; decoding blends neighbours linearly over
their overlap, but for a ``margin`` at the border of each tile, which is left to the neighbour. For networks of convolutions alone, half the overlap (or the
margin) of a receptive field's radius makes the result that of the whole image, exactly. Group norms and attention read all of an image, in a tile all of the
tile: there the result differs, the less the larger the tiles.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Tiles(NamedTuple):
    """How an image is cut, in sites of the code grid.

    Attributes:
        size: the side of a tile.
        overlap: how much neighbours share, at least.
        margin: how much of a decoded tile's border counts nothing where a neighbour lies; at most half the overlap.
    """

    size: int = 32
    overlap: int = 8
    margin: int = 2

    def check(self) -> None:
        """Refuses what cannot be cut.

        Raises:
            ValueError: names the numbers.
        """
        if not 0 <= 2 * self.margin <= self.overlap < self.size or (self.overlap == 2 * self.margin and self.overlap):
            raise ValueError(f"tiles want 0 <= 2 margin < overlap < size, or no overlap and no margin; got {self}")

    def starts(self, side: int) -> list[int]:
        """Where tiles begin along an axis of so many sites; the last one ends with it."""
        if side <= self.size:
            return [0]
        count = -(-(side - self.overlap) // (self.size - self.overlap))
        return [round(tile * (side - self.size) / (count - 1)) for tile in range(count)]


def _owned(starts: Sequence[int], size: int, side: int) -> list[tuple[int, int]]:
    """The part of an axis that each tile is the middle of: borders lie halfway through the overlaps."""
    borders = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), side]
    return list(pairwise(borders))


@torch.no_grad()
def encoded(encode: Callable[[Tensor], Tensor], x: Tensor, stride: int, tiles: Tiles | None = None) -> Int[Tensor, "B N"]:
    """The codes of large images, row by row.

    Args:
        encode: images ``(B, C, H, W)`` to codes ``(B, H/f W/f)``, such as ``first_stage.encode``.
        x: the images.
        stride: f.
        tiles: how they are cut.

    Raises:
        ValueError: f does not divide the images' sides, or the tiles cannot be cut.
    """
    tiles = Tiles() if tiles is None else tiles
    tiles.check()
    if x.ndim != 4 or x.shape[-2] % stride or x.shape[-1] % stride:
        raise ValueError(f"images of shape (B, C, H, W) with sides that the stride {stride} divides can be cut; got {tuple(x.shape)}: crop or resize them")
    h, w = x.shape[-2] // stride, x.shape[-1] // stride
    codes = torch.empty(len(x), h, w, dtype=torch.long, device=x.device)
    for (top, rows), (left, columns) in _grid(tiles, h, w):
        bottom, right = min(top + tiles.size, h), min(left + tiles.size, w)
        part = encode(x[..., top * stride : bottom * stride, left * stride : right * stride]).view(len(x), bottom - top, right - left)
        codes[:, slice(*rows), slice(*columns)] = part[:, rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
    return codes.flatten(1)


def _grid(tiles: Tiles, h: int, w: int) -> Iterator[tuple[tuple[int, tuple[int, int]], tuple[int, tuple[int, int]]]]:
    """Tiles by row and column: where each begins, and what it owns."""
    rows, columns = (list(zip(starts, _owned(starts, tiles.size, side), strict=True)) for side in (h, w) for starts in [tiles.starts(side)])
    return ((row, column) for row in rows for column in columns)


@torch.no_grad()
def decoded(
    decode: Callable[[Tensor, tuple[int, int]], Tensor], codes: Int[Tensor, "B N"], shape: Sequence[int], tiles: Tiles | None = None
) -> Float[Tensor, "B C H W"]:
    """The images of large grids of codes.

    Args:
        decode: codes ``(B, h w)`` and (h, w) to images ``(B, C, f h, f w)``, such as ``first_stage.decode``.
        codes: row by row.
        shape: (h, w) of their grid.
        tiles: how it is cut.

    Raises:
        ValueError: the codes do not fill the grid, or the tiles cannot be cut.
    """
    tiles = Tiles() if tiles is None else tiles
    tiles.check()
    h, w = shape
    if codes.ndim != 2 or codes.shape[1] != h * w:
        raise ValueError(f"{tuple(codes.shape)} codes do not fill grids of {h} x {w} = {h * w}: say the shape (h, w) that they were made for")
    grid, out, stride = codes.view(-1, h, w), None, 1
    weights = [_weights(tiles, side) for side in (h, w)]
    for top, across in zip(tiles.starts(h), weights[0], strict=True):
        for left, along in zip(tiles.starts(w), weights[1], strict=True):
            part = grid[:, top : top + tiles.size, left : left + tiles.size]
            image = decode(part.flatten(1), (part.shape[1], part.shape[2]))
            if out is None:
                stride = image.shape[-1] // part.shape[2]
                out = image.new_zeros(*image.shape[:2], h * stride, w * stride)
            weight = across(stride).to(image).unsqueeze(-1) * along(stride).to(image)
            out[..., top * stride : top * stride + image.shape[-2], left * stride : left * stride + image.shape[-1]] += image * weight
    if out is None:
        raise ValueError("there are no codes to decode")
    return out


def _weights(tiles: Tiles, side: int) -> list[Callable[[int], Tensor]]:
    """The weight of each tile along one axis, as a function of the stride; at every pixel those of all tiles add up to one."""
    starts = tiles.starts(side)

    def ramp(a: int, b: int, stride: int) -> Tensor:
        """From 0 to 1 through the overlap from b, where the later tile begins, to a + size, where the earlier ends; a step where there is none."""
        low, high = (b + tiles.margin) * stride, (a + tiles.size - tiles.margin) * stride
        pixels = torch.arange(side * stride, dtype=torch.float64) + 0.5
        return ((pixels - low) / (high - low)).clamp(0, 1) if high > low else (pixels > low).double()

    def weight(tile: int, stride: int) -> Tensor:
        whole = ramp(starts[tile - 1], starts[tile], stride) if tile else torch.ones(side * stride, dtype=torch.float64)
        for a, b in pairwise(starts[tile:]):  # what later tiles leave over, so that all add up to one where three overlap, too
            whole = whole * (1 - ramp(a, b, stride))
        return whole[starts[tile] * stride : min(starts[tile] + tiles.size, side) * stride]

    return [lambda stride, tile=tile: weight(tile, stride) for tile in range(len(starts))]  # type: ignore[misc]
