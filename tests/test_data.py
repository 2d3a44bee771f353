"""The digits against scikit-learn's own, and the order of batches."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from latentcomp.data import Batches, Split, digits

BITS = 2 ** torch.arange(11)  # of a position below 2048


@pytest.fixture
def positions(monkeypatch):
    """The splits of a fold as positions in the original set: each image spells its own in its first eleven pixels."""
    images = np.zeros((1797, 64))
    images[:, :11] = 16 * ((np.arange(1797)[:, None] >> np.arange(11)) & 1)
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: SimpleNamespace(images=images.reshape(-1, 8, 8)))
    return lambda fold: Split(*[(part.flatten(1)[:, :11].long() * BITS).sum(1).tolist() for part in digits(fold)])


def test_digits_are_binary_images_of_the_stated_sizes():
    for part, n in zip(digits(), (1300, 200, 297), strict=True):
        assert part.shape == (n, 1, 8, 8)
        assert part.dtype == torch.float32
        assert set(part.unique().tolist()) == {0.0, 1.0}


def test_the_test_set_is_the_last_digits_binarised_at_half_intensity():
    expected = torch.as_tensor(load_digits().images[-297:] > 8).float()
    for fold in (0, 1, 5):
        assert torch.equal(digits(fold).test[:, 0], expected)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_train_validation_and_test_are_disjoint_and_together_all(positions, fold):
    split = positions(fold)
    assert sorted(split.train + split.validation + split.test) == list(range(1797))
    assert set(split.test) == set(range(1500, 1797))


def test_folds_hold_out_other_images_in_a_reproducible_way(positions):
    held_out = [set(positions(fold).validation) for fold in range(4)]
    assert positions(2) == positions(2)
    for a in range(4):
        for b in range(a):
            assert len(held_out[a] & held_out[b]) < 60  # by chance 27


def order(n: int, size: int, updates: int, **settings) -> list[list[int]]:
    """The positions in each batch; also that a batch holds the images (and conditions) it says it holds."""
    x, c = torch.arange(n).view(n, 1, 1, 1), -torch.arange(n)
    batches = list(Batches(x, size, updates, c=c, **settings))
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
    assert order(n, size, epochs * per_epoch, seed=seed, start=min(start, len(whole))) == whole[start:]


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
    batches = Batches(torch.zeros(7, 1, 1, 1), 3, 10, start=4)
    assert len(batches) == len(list(batches)) == 6
    assert all(batch.c is None for batch in batches)


@pytest.mark.parametrize("size", [0, -1, 8])
def test_a_batch_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match=f"between 1 and n=7 of the images, got size={size}"):
        Batches(torch.zeros(7, 1, 1, 1), size, 10)
