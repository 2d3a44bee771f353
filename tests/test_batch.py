"""A batch and its parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.batch import Batch


def batch(rows: int) -> Batch:
    """Every field filled, row by row recognisable."""
    row = torch.arange(rows)
    return Batch(row.view(-1, 1, 1, 1).float(), c=row * 2, z=row.view(-1, 1) * 3, index=row * 5)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=st.integers(1, 20), parts=st.integers(1, 25))
def test_parts_are_consecutive_nearly_equal_and_together_the_whole(rows, parts):
    whole = batch(rows)
    pieces = whole.split(parts)
    assert len(pieces) == min(parts, rows)
    sizes = [piece.size for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    for field, together in zip(whole, zip(*pieces, strict=True), strict=True):
        assert torch.equal(torch.cat(together), field)


def test_absent_fields_stay_absent():
    for piece in Batch(torch.zeros(5, 1, 1, 1)).split(2):
        assert piece.c is None
        assert piece.z is None


def test_size_and_positions():
    assert batch(4).size == 4
    assert batch(4).positions.tolist() == [0, 5, 10, 15]
    assert Batch(torch.zeros(3, 1, 1, 1)).positions.tolist() == [0, 1, 2]


@pytest.mark.parametrize("whole", [batch(5), Batch(torch.zeros(5, 1, 1, 1))], ids=["index", "no index"])
def test_parts_keep_the_positions_of_the_whole(whole):
    """Positions key the noise: parts that all began at 0 would draw the same numbers again."""
    assert torch.equal(torch.cat([piece.positions for piece in whole.split(2)]), whole.positions)
