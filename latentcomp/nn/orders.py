"""The orders in which a second stage writes a grid of codes: permutations of its sites (Esser et al., 2021, appendix; "permuters" in the published code).

Each function maps (h, w) to the raster numbers of the sites in the order in which they are written; :class:`~latentcomp.nn.grid.Ordered` applies one and
undoes it, and :class:`~latentcomp.priors.InOrder` puts it around a prior.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def raster(h: int, w: int) -> Int[Tensor, " N"]:
    """Row by row, each from left to right."""
    return torch.arange(h * w)


def alternating(h: int, w: int) -> Int[Tensor, " N"]:
    """Row by row, every other row from right to left."""
    rows = raster(h, w).view(h, w)
    rows[1::2] = rows[1::2].flip(-1)
    return rows.flatten()


def z_curve(h: int, w: int) -> Int[Tensor, " N"]:
    """By the interleaved bits of row and column, the largest first: a quarter, and in it a quarter, and so on."""
    return _interleaved(h, w, fine_first=False)


def subsampled(h: int, w: int) -> Int[Tensor, " N"]:
    """By the interleaved bits of row and column, the smallest first: every other site of every other row, then what lies between."""
    return _interleaved(h, w, fine_first=True)


def spiral_out(h: int, w: int) -> Int[Tensor, " N"]:
    """From the middle outwards: one up, one right, two down, two left, three up and so on."""
    if h != w or h % 2:
        raise ValueError(f"the spiral fills squares of an even side, got {h} x {w}")
    row, column = h // 2, w // 2 - 1
    sites = [row * w + column]
    for leg in range(2 * h):
        down, right = ((-1, 0), (0, 1), (1, 0), (0, -1))[leg % 4]
        for _ in range(leg // 2 + 1):
            row, column = row + down, column + right
            sites.append(row * w + column)
    return torch.tensor(sites[: h * w])


def spiral_in(h: int, w: int) -> Int[Tensor, " N"]:
    """From the border to the middle."""
    return spiral_out(h, w).flip(0)


def shuffled(h: int, w: int) -> Int[Tensor, " N"]:
    """At random, once and for all: numpy's permutation of seed 1."""
    return torch.from_numpy(np.random.RandomState(1).permutation(h * w))


def _interleaved(h: int, w: int, fine_first: bool) -> Int[Tensor, " N"]:
    bits = h.bit_length() - 1
    if h != w or h != 2**bits:
        raise ValueError(f"this order halves a square until one site is left, so its side must be a power of two; got {h} x {w}")
    sites = raster(h, w)
    key = torch.zeros_like(sites)
    for bit in range(bits) if fine_first else reversed(range(bits)):
        key = 4 * key + 2 * (sites // w >> bit & 1) + (sites % w >> bit & 1)
    return key.argsort()


ORDERS: dict[str, Callable[[int, int], Tensor]] = {
    "Identity": raster,
    "Subsample": subsampled,
    "ZCurve": z_curve,
    "SpiralOut": spiral_out,
    "SpiralIn": spiral_in,
    "Random": shuffled,
    "AlternateParsing": alternating,
}
"""By the names of the published classes."""
