"""Scene layouts: known codes, back again, crops and mirrors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcomp.data.scenes import WHOLE, Box, Boxes, Centres, Object

CAT, DOG = Object(0, Box(0.0, 0.0, 1 / 3, 2 / 3)), Object(4, Box(1 / 3, 1 / 3, 2 / 3, 1 / 3))


def test_codes_by_hand():
    """V = 16: a raster of 4 x 4 places, a third of a side apart, of which 6 lies at (2, 1) and 15 in the corner; 15 also stands for what is missing."""
    assert Boxes(5, 3, 16).encode([CAT, DOG]).tolist() == [0, 0, 9, 4, 5, 11, 15, 15, 15]
    assert Centres(5, 3, 16).encode([CAT._replace(box=Box(1 / 3, 0.0, 2 / 3, 2 / 3)), DOG]).tolist() == [0, 6, 4, 10, 15, 15]  # halves go to even cells
    assert Boxes(5, 1, 16, crop=True).encode([CAT, DOG], Box(0.0, 0.0, 2 / 3, 1.0)).tolist() == [0, 0, 9, 0, 14]
    assert Boxes(5, 1, 16).length == 3
    assert Boxes(5, 30, 8192, crop=True).length == 92


def test_a_part_of_the_scene_cuts_moves_and_leaves_out():
    right = Box(2 / 3, 0.0, 1 / 3, 1.0)
    assert Boxes(5, 2, 16).encode([CAT, DOG], right).tolist() == [4, 4, 11, 15, 15, 15]
    assert Boxes(5, 2, 16).encode([CAT], WHOLE, flip=True).tolist() == [0, 2, 11, 15, 15, 15]
    assert Boxes(5, 1, 16, crop=True).encode([DOG], right, flip=True).tolist() == [4, 4, 10, 0, 13]


cells = st.integers(0, 6)
things = st.lists(st.tuples(st.integers(0, 20), cells, cells, cells, cells), max_size=6)


@given(things=things, crop=st.booleans())
def test_boxes_on_the_raster_come_back(things, crop):
    layout = Boxes(21, 4, 64, crop)
    scene = [Object(label, Box(x / 7, y / 7, min(w + 1, 7 - x) / 7, min(h + 1, 7 - y) / 7)) for label, x, y, w, h in things]
    codes = layout.encode(scene)
    assert len(codes) == layout.length
    assert codes.min() >= 0
    assert codes.max() < 64
    back, part = layout.decode(codes)
    assert part == pytest.approx(WHOLE)
    assert [thing.label for thing in back] == [thing.label for thing in scene[:4]]
    for a, b in zip(back, scene[:4], strict=True):
        assert a.box == pytest.approx(b.box)


@given(things=things)
def test_mirrored_twice_is_the_scene(things):
    for label, x, y, w, h in things:
        box = Box(x / 7, y / 7, min(w + 1, 7 - x) / 7, min(h + 1, 7 - y) / 7)
        once = box.within(WHOLE, True)
        assert once.within(WHOLE, True) == pytest.approx(box)
        assert Boxes(21, 1, 64).decode(Boxes(21, 1, 64).encode([Object(label, box)], flip=True))[0][0].box == pytest.approx(once)


def test_centres_come_back_without_their_size():
    (thing,), part = Centres(5, 2, 16).decode(Centres(5, 2, 16).encode([DOG._replace(box=Box(0.0, 1 / 3, 2 / 3, 2 / 3))]))
    assert thing.box == pytest.approx(Box(1 / 3, 2 / 3, 0.0, 0.0))
    assert part == WHOLE


def test_what_is_no_scene_is_refused():
    with pytest.raises(ValueError, match="got 5 labels, 3 objects, V=5"):
        Boxes(5, 3, 5)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4; got 5"):
        Boxes(5, 3, 16).encode([Object(5, WHOLE)])
    with pytest.raises(ValueError, match="a box has a positive width and height"):
        Boxes(5, 3, 16).encode([Object(1, Box(0.1, 0.1, 0.0, 0.5))])
    with pytest.raises(ValueError, match="has 9 codes, got 8"):
        Boxes(5, 3, 16).decode(torch.zeros(8, dtype=torch.long))
