"""MNIST from IDX files: on small files written here, and on the real ones where there are any."""

import os
import struct
from pathlib import Path

import pytest
import torch

from latentcomp.data.mnist_like import mnist

SHARED = os.environ.get("LATENTCOMP_SHARED")
real = pytest.mark.skipif(not SHARED, reason="needs the MNIST files: set LATENTCOMP_SHARED to the folder that holds data/mnist")


@pytest.fixture
def root(tmp_path) -> Path:
    """Forty images to learn from and ten to report on; each spells its number, and has a pixel of half intensity."""
    for name, n, first in (("train", 40, 0), ("t10k", 10, 100)):
        images = torch.zeros(n, 28, 28, dtype=torch.uint8)
        images[:, 0, 0] = torch.arange(first, first + n)
        images[:, 1, :2] = torch.tensor([127, 128], dtype=torch.uint8)
        images[:, 2] = 128
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28) + images.numpy().tobytes())
    return tmp_path


def test_thresholded_pixels_are_on_above_half_intensity(root):
    split = mnist(root, validation=15, test=10)
    assert [len(part) for part in split[:3]] == [25, 15, 10]
    assert split.grey is None
    assert split.test.shape == (10, 1, 28, 28)
    assert split.train[:, 0, 1, :2].unique(dim=0).tolist() == [[0.0, 1.0]]


def test_stochastic_pixels_are_drawn_once_for_ever(root):
    a, b = (mnist(root, "stochastic", fold, 15, 10) for fold in (0, 3))
    assert torch.equal(a.test, b.test)
    assert not torch.equal(a.train, b.train)
    assert set(a.train.unique().tolist()) == {0.0, 1.0}
    share = a.train[:, 0, 2].mean()  # 700 draws of 128 / 255: four standard errors
    assert abs(float(share) - 128 / 255) < 4 * 0.5 / 700**0.5
    torch.manual_seed(5)
    assert torch.equal(a.train, mnist(root, "stochastic", 0, 15, 10).train)


def test_dynamic_pixels_come_with_their_grey_values(root):
    split = mnist(root, "dynamic", 0, 15, 10)
    assert split.grey.shape == split.train.shape
    assert split.grey.dtype == torch.uint8
    assert torch.equal(split.test, mnist(root, "stochastic", 0, 15, 10).test)
    batches = [batch.x for batch in split.batches(25, 2)]
    assert not torch.equal(batches[0].sort(0).values, batches[1].sort(0).values)


def test_folds_hold_out_other_images_and_lose_none(root):
    parts = [mnist(root, "dynamic", fold, 15, 10).grey[:, 0, 0, 0].tolist() for fold in (0, 1, 0)]
    assert parts[0] == parts[2] != parts[1]
    assert all(len(set(part)) == 25 and set(part) <= set(range(40)) for part in parts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"binarisation": "grey"}, "no binarisation 'grey'; known: threshold, stochastic, dynamic"),
        ({"name": "cifar"}, "no data set 'cifar' here; known: mnist, fashion"),
        ({"validation": 40}, "must leave something of 40 and 10 images"),
        ({"validation": 5, "test": 11}, "must leave something of 40 and 10 images"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_do_not_exist_are_refused(root, settings, message):
    with pytest.raises(ValueError, match=message):
        mnist(root, **settings)


def test_a_missing_folder_names_the_setting_and_the_files():
    with pytest.raises(FileNotFoundError, match=r"data.root=/nowhere is no folder: give the folder that holds train-images-idx3-ubyte.gz"):
        mnist("/nowhere")


def test_images_of_another_size_are_refused(root):
    (root / "train-images-idx3-ubyte").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 1, 2, 2) + bytes(4))
    with pytest.raises(ValueError, match=r"holds images of \(2, 2\) pixels, not 28x28"):
        mnist(root)


@real
def test_the_real_files_give_the_known_digits():
    split = mnist(Path(SHARED) / "data" / "mnist", validation=10000)
    assert [len(part) for part in split[:3]] == [50000, 10000, 10000]
    assert float(split.test[0].sum()) > 0
    whole = torch.cat([split.train, split.validation])
    assert float(whole.mean()) == pytest.approx(0.1323, abs=2e-4)
