"""The orders of the published permuters, as they print them for a 4 x 4 grid."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcomp.nn.grid import Ordered
from latentcomp.nn.orders import ORDERS

PUBLISHED = {
    "Identity": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    "Subsample": [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15],
    "ZCurve": [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15],
    "SpiralOut": [9, 5, 6, 10, 14, 13, 12, 8, 4, 0, 1, 2, 3, 7, 11, 15],
    "SpiralIn": [15, 11, 7, 3, 2, 1, 0, 4, 8, 12, 13, 14, 10, 6, 5, 9],
    "AlternateParsing": [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_four_by_four(name):
    assert ORDERS[name](4, 4).tolist() == PUBLISHED[name]


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("side", [2, 8, 16])
def test_every_site_comes_once(name, side):
    assert ORDERS[name](side, side).sort().values.tolist() == list(range(side * side))


def test_the_random_order_is_always_the_same():
    assert torch.equal(ORDERS["Random"](4, 8), ORDERS["Random"](8, 4))


@pytest.mark.parametrize("name", ["Subsample", "ZCurve"])
@pytest.mark.parametrize("size", [(4, 8), (6, 6), (0, 0)])
def test_halving_needs_a_power_of_two(name, size):
    with pytest.raises(ValueError, match="must be a power of two"):
        ORDERS[name](*size)


@pytest.mark.parametrize("size", [(4, 8), (5, 5)])
def test_spirals_need_even_squares(size):
    for name in ("SpiralOut", "SpiralIn"):
        with pytest.raises(ValueError, match="squares of an even side"):
            ORDERS[name](*size)


def test_rectangles_alternate_too():
    assert ORDERS["AlternateParsing"](2, 3).tolist() == [0, 1, 2, 5, 4, 3]


@given(name=st.sampled_from(sorted(ORDERS)), power=st.integers(1, 4), rows=st.integers(1, 3))
def test_each_is_a_bijection_with_its_inverse(name, power, rows):
    side = 2**power
    order = Ordered(ORDERS[name](side, side))
    z = torch.rand(rows, side * side, 2)
    assert torch.equal(order.undo(order(z)), z)
    assert torch.equal(order(order.undo(z)), z)
    assert torch.equal(order.order[order.inverse], torch.arange(side * side))


def test_as_the_published_code_defines_them():
    """z-curve and subsampling from their definitions: interleaved bits of row and column, and blocks of every other row and column, again and again."""
    side, bits = 16, 4
    morton = [sum(((j >> b & 1) << 2 * b) | ((i >> b & 1) << 2 * b + 1) for b in range(bits)) for i in range(side) for j in range(side)]
    assert ORDERS["ZCurve"](side, side).tolist() == sorted(range(side * side), key=morton.__getitem__)
    blocks = torch.arange(side * side).view(1, side, side)
    while blocks.shape[-1] > 1:
        half = blocks.shape[-1] // 2
        blocks = blocks.reshape(-1, half, 2, half, 2).permute(0, 2, 4, 1, 3).reshape(-1, half, half)
    assert ORDERS["Subsample"](side, side).tolist() == blocks.flatten().tolist()


def test_spirals_go_from_neighbour_to_neighbour():
    for name in ("SpiralOut", "SpiralIn", "AlternateParsing"):
        sites = ORDERS[name](8, 8)
        steps = torch.stack([sites // 8, sites % 8]).diff(dim=1).abs().sum(0)
        assert steps.eq(1).all()
    assert ORDERS["SpiralIn"](8, 8).tolist() == ORDERS["SpiralOut"](8, 8).tolist()[::-1]
