"""The orders of the published permuters, as they print them for a 4 x 4 grid."""

import pytest
import torch

from latentcomp.taming.orders import ORDERS

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
