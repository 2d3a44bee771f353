"""The digits against scikit-learn's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from latentcomp.data.split import Split
from latentcomp.data.toy import digits

BITS = 2 ** torch.arange(11)  # of a position below 2048


@pytest.fixture
def positions(monkeypatch):
    """The splits of a fold as positions in the original set: each image spells its own in its first eleven pixels."""
    images = np.zeros((1797, 64))
    images[:, :11] = 16 * ((np.arange(1797)[:, None] >> np.arange(11)) & 1)
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: SimpleNamespace(images=images.reshape(-1, 8, 8)))
    return lambda fold: Split(*[(part.flatten(1)[:, :11].long() * BITS).sum(1).tolist() for part in digits(fold)[:3]])


def test_digits_are_binary_images_of_the_stated_sizes():
    for part, n in zip(digits()[:3], (1300, 200, 297), strict=True):
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
