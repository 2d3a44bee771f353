"""Squares of pictures: where they lie, that they mirror, and that nothing but (seed, epoch, index) decides it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.data.views import View

WHERE = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij")).to(torch.uint8)  # each pixel holds its place


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 99), index=st.integers(0, 2**40), crop=st.integers(1, 20))
def test_a_square_lies_inside_and_is_whole(seed, epoch, index, crop):
    view = View(crop, 20)
    square = view.cut(WHERE, view.augmented(torch.tensor([index]), seed, epoch)[0].tolist()).long()
    assert square.shape == (2, crop, crop)
    down, across = square
    assert (down.diff(dim=0) == 1).all()
    assert (across.diff(dim=1).abs() == 1).all()
    assert len(set(across.diff(dim=1).flatten().tolist())) <= 1


@pytest.mark.usefixtures("unchecked")
def test_all_places_and_both_directions_are_equally_probable():
    """A chi-square of 3 x 3 x 2 cells over 20,000 draws: 17 degrees of freedom, error rate 1e-4."""
    view = View(18, 20)
    at = view.augmented(torch.arange(20_000), 0, 0)
    counts = {}
    for row in at.tolist():
        square = view.cut(WHERE[:, :, :20], row)
        key = (int(square[0, 0, 0]), int(square[1].min()), bool(square[1, 0, 0] > square[1, 0, 1]))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 18
    expected = 20_000 / 18
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 45.1


def test_held_out_squares_are_the_centre_or_fixed_places_and_never_mirrored():
    centre = View(10, 20)
    (row,) = centre.held_out(torch.tensor([5])).tolist()
    assert centre.cut(WHERE, row)[:, 0, 0].tolist() == [5, 10]
    many = View(10, 20, crops=4)
    squares = [many.cut(WHERE, row) for row in many.held_out(torch.arange(40)).tolist()]
    assert len({tuple(square[:, 0, 0].tolist()) for square in squares}) > 20
    assert all((square[1].long().diff(dim=1) == 1).all() for square in squares)


def test_units():
    squares = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert View(1).pixels(squares).flatten().tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)
    assert View(1, signed=False).pixels(squares).flatten().tolist() == pytest.approx([0, 128 / 255, 1])
    for view in (View(1), View(1, signed=False)):
        assert (view.shown(view.pixels(squares)) * 255).round().flatten().tolist() == [0, 128, 255]


@pytest.mark.usefixtures("unchecked")  # else the annotations refuse a filter first
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": 0}, "at least one pixel"),
        ({"resize": 9, "crop": 10}, "hold no square of 10"),
        ({"channels": 4}, "got channels=4"),
        ({"filter": "box"}, "got filter='box'"),
    ],
)
def test_views_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        View(**wrong)
