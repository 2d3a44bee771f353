"""Tiles: a partition of unity, exact for convolutions, near for the published networks, and refusals."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import pixel_shuffle

from latentcomp.sampling.tiled import Tiles, _weights, decoded, encoded

F = 4


def convolutions(inputs: int, outputs: int, seed: int = 0) -> nn.Sequential:
    """Two 3x3 convolutions: a receptive field of radius two."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(inputs, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, outputs, 3, padding=1)).double()


down, up = nn.Conv2d(3, 5, F, F).double(), convolutions(5, 3 * F * F)
within = convolutions(5, 9, 1)
vectors = torch.randn(9, 5, dtype=torch.float64)


@torch.no_grad()
def encode(x: torch.Tensor) -> torch.Tensor:
    """Codes whose receptive field has a radius of two sites."""
    return within(down(x)).argmax(1).flatten(1)


@torch.no_grad()
def decode(z: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Images whose receptive field has a radius of two sites."""
    return pixel_shuffle(up(vectors[z].mT.unflatten(-1, shape)), F)


@given(side=st.integers(1, 40), size=st.integers(2, 12), overlap=st.integers(0, 6), margin=st.integers(0, 2), stride=st.integers(1, 3))
def test_weights_of_all_tiles_add_up_to_one(side, size, overlap, margin, stride):
    tiles = Tiles(size, overlap, margin)
    if not (overlap < size and (2 * margin < overlap or overlap == margin == 0)):
        with pytest.raises(ValueError, match="tiles want"):
            tiles.check()
        return
    starts, total = tiles.starts(side), torch.zeros(side * stride, dtype=torch.float64)
    assert starts[0] == 0
    assert starts[-1] == max(side - size, 0)
    for start, weight in zip(starts, _weights(tiles, side), strict=True):
        part = weight(stride)
        assert part.min() >= 0
        total[start * stride : start * stride + len(part)] += part
    torch.testing.assert_close(total, torch.ones_like(total))
    for a, b in pairwise(starts):
        assert a + size - b >= overlap


@pytest.mark.parametrize("sides", [(20, 33), (9, 12), (10, 10)])
def test_convolutions_are_exact_once_the_overlap_covers_the_receptive_field(sides):
    h, w = sides
    x = torch.rand(2, 3, h * F, w * F, dtype=torch.float64)
    z = encode(x)
    assert torch.equal(encoded(encode, x, F, Tiles(10, 5, 2)), z)
    torch.testing.assert_close(decoded(decode, z, (h, w), Tiles(10, 5, 2)), decode(z, (h, w)))


def test_a_smaller_overlap_is_near_and_no_overlap_shows_its_seams():
    x = torch.rand(1, 3, 30 * F, 30 * F, dtype=torch.float64)
    z = encode(x)
    whole = decode(z, (30, 30))
    errors = [(decoded(decode, z, (30, 30), tiles) - whole).abs().max() for tiles in (Tiles(10, 0, 0), Tiles(10, 2, 0), Tiles(10, 5, 2))]
    assert errors[0] > 1e-3
    assert errors[2] < 1e-12


def test_a_small_image_is_one_tile():
    calls = []
    x = torch.rand(1, 3, 5 * F, 7 * F, dtype=torch.float64)
    z = encoded(lambda x: (calls.append(x.shape), encode(x))[1], x, F, Tiles(8, 2, 0))
    assert torch.equal(z, encode(x))
    torch.testing.assert_close(decoded(decode, z, (5, 7), Tiles(8, 2, 0)), decode(z, (5, 7)))
    assert calls == [x.shape]


def test_tiles_are_never_larger_than_asked():
    shapes = []
    encoded(lambda x: (shapes.append(x.shape[-2:]), encode(x))[1], torch.rand(1, 3, 40 * F, 23 * F, dtype=torch.float64), F, Tiles(10, 4, 1))
    assert len(shapes) == 6 * 4
    assert set(shapes) == {(10 * F, 10 * F)}


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match=r"sides that the stride 4 divides can be cut; got \(1, 3, 10, 8\)"):
        encoded(encode, torch.rand(1, 3, 10, 8), F)
    with pytest.raises(ValueError, match="codes do not fill grids of 3 x 3 = 9"):
        decoded(decode, torch.zeros(1, 8, dtype=torch.long), (3, 3))
    for tiles in (Tiles(4, 4, 0), Tiles(4, 2, 2), Tiles(4, 2, 1)):
        with pytest.raises(ValueError, match="tiles want 0 <= 2 margin < overlap < size"):
            encoded(encode, torch.rand(1, 3, 8, 8), F, tiles)
