"""The order of batches, and pixels drawn anew."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.data.batches import Batches


def order(n: int, size: int, updates: int, done: int = 0, **settings) -> list[list[int]]:
    """The positions in each batch; also that a batch holds the images (and conditions) it says it holds."""
    x, c = torch.arange(n).view(n, 1, 1, 1), -torch.arange(n)
    batches = list(Batches(x, size, updates, c=c, **settings).after(done))
    assert all(torch.equal(batch.x.flatten(), batch.index) and torch.equal(batch.c, -batch.index) for batch in batches)
    return [batch.index.tolist() for batch in batches]


def joined(batches: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), size=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0, 99), start=st.integers(0, 9))
def test_an_epoch_shows_no_image_twice_and_a_resumed_run_goes_on(n, size, epochs, seed, start):
    size, per_epoch = min(size, n), n // min(size, n)
    whole = order(n, size, epochs * per_epoch, seed=seed)
    assert [len(batch) for batch in whole] == [size] * (epochs * per_epoch)
    for epoch in range(epochs):
        shown = joined(whole[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(set(shown)) == len(shown) == per_epoch * size
    assert order(n, size, epochs * per_epoch, seed=seed, done=min(start, len(whole))) == whole[start:]


def test_the_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(0)
    first = order(50, 10, 10, seed=1)
    torch.manual_seed(1)
    assert order(50, 10, 10, seed=1) == first
    assert joined(order(50, 25, 4, seed=1)) == joined(first)  # the size of the batches cuts the same order
    assert order(50, 10, 10, seed=2) != first
    assert first[:5] != first[5:]
    assert sorted(joined(first[:5])) == sorted(joined(first[5:])) == list(range(50))


def test_length_counts_what_is_left_and_no_condition_stays_none():
    batches = Batches(torch.zeros(7, 1, 1, 1), 3, 10).after(4)
    assert len(batches) == len(list(batches)) == 6
    assert all(batch.c is None for batch in batches)


@pytest.mark.parametrize("size", [0, -1, 8])
def test_a_batch_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match=f"between 1 and n=7 of the images, got size={size}"):
        Batches(torch.zeros(7, 1, 1, 1), size, 10)


@pytest.mark.parametrize("done", [-1, 11])
def test_a_rest_that_cannot_be_is_refused(done):
    with pytest.raises(ValueError, match=f"a run of 10 updates goes on after some of them, or after all; got done={done}"):
        Batches(torch.zeros(7, 1, 1, 1), 3, 10).after(done)


def test_dynamic_pixels_are_a_function_of_seed_update_and_position():
    grey = torch.full((40, 1, 4, 4), 128, dtype=torch.uint8)
    x = torch.zeros(40, 1, 4, 4)
    first, again, other = ([batch.x for batch in Batches(x, 10, 8, seed, grey=grey)] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[5], next(iter(Batches(x, 10, 8, 1, grey=grey).after(5))).x)
    by_image = [{}, {}]
    for update, batch in enumerate(Batches(x, 10, 8, 1, grey=grey)):
        for index, image in zip(batch.index.tolist(), batch.x, strict=True):
            by_image[update // 4][index] = image
    assert all(not torch.equal(by_image[0][i], by_image[1][i]) for i in range(40))  # another epoch, other pixels: by chance equal once in 65,536


def test_dynamic_pixels_are_on_with_their_grey_value():
    """Four standard errors of 20,000 draws a grey value."""
    grey = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).view(1, 1, 2, 2).expand(100, 1, 2, 2)
    drawn = torch.cat([batch.x for batch in Batches(torch.zeros(100, 1, 2, 2), 100, 200, grey=grey)]).mean((0, 1)).flatten()
    p = torch.tensor([0.0, 0.2, 0.8, 1.0])
    assert ((drawn - p).abs() <= 4 * (p * (1 - p) / 20000).sqrt()).all()


def test_grey_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="it has their shape"):
        Batches(torch.zeros(7, 1, 2, 2), 3, 10, grey=torch.zeros(7, 1, 2, 3, dtype=torch.uint8))
