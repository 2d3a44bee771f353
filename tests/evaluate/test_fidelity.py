"""PSNR by its formula, SSIM against a plain double loop, LPIPS's mean, and that batches do not matter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from latentcomp.evaluate.fidelity import Fidelity, Mean, bicubic
from tests.pictures import pixels


def pairs(n=6, channels=3, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, side, side, generator=generator, dtype=torch.float64) * 2 - 1
    return x, (x + 0.2 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)


def measured(x, y, size=2, **distances):
    fidelity = Fidelity(distances)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        fidelity.update(a, b)
    return fidelity.measures()


def ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. (2004) of one channel in [-1, 1], on the published scale, where black is 0 and white 1: a Gaussian window of 11 x 11 with deviation 1.5
    around each pixel, the image mirrored at its borders.
    """
    x, y = (np.pad((image + 1) / 2, 5, mode="reflect") for image in (x, y))
    at = np.arange(-5, 6)
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2, values = 0.01**2, 0.03**2, []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb, cov = (window * a * a).sum() - ma**2, (window * b * b).sum() - mb**2, (window * a * b).sum() - ma * mb
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_psnr_is_the_mean_of_each_image_s_formula():
    x, y = pairs()
    each = [10 * math.log10(4 / float(((a - b) ** 2).mean())) for a, b in zip(x, y, strict=True)]
    measure = measured(x, y)["psnr"]
    assert measure.value == pytest.approx(np.mean(each))
    assert measure.stderr == pytest.approx(np.std(each, ddof=1) / math.sqrt(6))
    assert measure.unit == "dB"


def test_a_constant_shift_has_the_psnr_of_its_size():
    x = torch.zeros(2, 1, 16, 16)
    assert measured(x, x + 0.02)["psnr"].value == pytest.approx(40, abs=1e-4)
    assert measured(x, x + 0.2)["l1"].value == pytest.approx(0.2)


def test_ssim_against_a_plain_loop():
    x, y = pairs(2, channels=2)
    expected = np.mean([ssim(a.numpy(), b.numpy()) for a, b in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)])
    assert measured(x, y)["ssim"].value == pytest.approx(expected, abs=1e-6)
    assert measured(x, x)["ssim"].value == pytest.approx(1)


def test_equal_images_have_no_finite_psnr_and_say_so():
    x, _ = pairs()
    measure = measured(x, x)["psnr"]
    assert measure.value is None
    assert "an image equals its reconstruction" in measure.reason


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_an_image_that_equals_its_reconstruction_makes_psnr_infinite_wherever_it_comes(order):
    x, y = pairs(3)
    y[0] = x[0]
    measures = measured(x[order], y[order], size=1)
    assert measures["psnr"].value is None
    assert measures["psnr"].reason == "infinite: an image equals its reconstruction"
    assert measures["l1"].value == pytest.approx(float((x - y).abs().mean()))


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1]])
def test_nan_is_called_nan_and_not_infinite(order):
    x, y = pairs(3)
    y[0, 0, 3, 3], y[1] = math.nan, x[1]
    measures = measured(x[order], y[order], size=1, mine=lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert set(measures) == {"psnr", "ssim", "l1", "mine"}
    for measure in measures.values():
        assert measure.value is None
        assert measure.reason.startswith("nan: ")
        assert "infinite" not in measure.reason


def test_what_is_infinite_for_another_cause_is_not_said_to_be_equal():
    mean = Mean()
    mean.update(torch.tensor([1.0, math.inf]))
    mean.update(torch.tensor([1.0]))
    assert mean.measure("nats") == (None, "nats", None, "infinite: that of an image is")
    distances = measured(*pairs(2), mine=lambda a, b: torch.full((len(a),), math.inf))
    assert distances["mine"].reason == "infinite: that of an image is"


@pytest.mark.parametrize(("height", "width"), [(5, 16), (16, 4), (1, 1)])
def test_images_smaller_than_the_window_have_no_ssim_and_say_why(height, width):
    x, y = pairs(4)
    x, y = x[..., :height, :width], y[..., :height, :width]
    measures = measured(x, y)
    assert measures["ssim"].value is None
    assert "6 pixels" in measures["ssim"].reason
    assert measures["l1"].value == pytest.approx(float((x - y).abs().mean()))
    assert measures["psnr"].value is not None


def test_the_least_image_that_has_an_ssim():
    x, y = pairs(2, channels=1, side=6)
    expected = np.mean([ssim(a[0].numpy(), b[0].numpy()) for a, b in zip(x, y, strict=True)])
    assert measured(x, y)["ssim"].value == pytest.approx(expected, abs=1e-6)


def test_some_small_images_among_others_leave_no_ssim():
    fidelity = Fidelity()
    for side in (16, 4):
        fidelity.update(*pairs(2, side=side))
    assert fidelity.measures("r_")["r_ssim"].value is None
    assert "6 pixels" in fidelity.measures()["ssim"].reason


def test_distances_see_three_channels_and_what_can_be_shown():
    x, _ = pairs(channels=1)
    seen = []
    distance = lambda a, b: (seen.append(b), (a - b).abs().mean((1, 2, 3)))[1]  # noqa: E731
    measures = measured(x, x + 5, mine=distance)
    assert all(b.shape[1] == 3 and b.max() <= 1 for b in seen)
    assert measures["mine"].value == pytest.approx(float((1 - x).mean()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), size=st.integers(1, 30))
def test_a_running_mean_is_that_of_all_rows(values, size):
    mean = Mean()
    for part in torch.tensor(values, dtype=torch.float64).split(size):
        mean.update(part)
    measure = mean.measure("x")
    assert measure.value == pytest.approx(np.mean(values), abs=1e-9)
    assert measure.stderr == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), abs=1e-7)


def test_no_images_give_no_number():
    assert Mean().measure("dB").reason == "no images"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 8), "must have one shape"),
        (torch.full((1, 1, 16, 16), 255.0), torch.zeros(1, 1, 16, 16), "got values from 255"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_that_are_no_pair_or_lie_elsewhere_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        Fidelity().update(x, y)


def test_bicubic_keeps_what_is_smooth_and_loses_what_is_fine():
    slope = torch.linspace(-0.8, 0.8, 64).expand(1, 3, 32, 64)
    assert (bicubic(slope) - slope)[..., 20:-20].abs().max() < 1e-5
    board = (torch.arange(32).view(-1, 1) + torch.arange(32)).remainder(2).float().expand(1, 3, 32, 32) * 2 - 1
    assert bicubic(board)[..., 8:-8, 8:-8].abs().max() < 0.05
    picture = Image.fromarray(pixels(3, 32, 48) // 2 + 64)  # so that nothing is cut off half-way
    expected = np.asarray(picture.resize((12, 8), Image.Resampling.BICUBIC).resize((48, 32), Image.Resampling.BICUBIC), np.float32)
    found = (bicubic(torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None] / 127.5 - 1)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(found.numpy() - expected).max() <= 2  # Pillow rounds to bytes four times
    with pytest.raises(ValueError, match="4 must divide the sides of the images, 30 x 32"):
        bicubic(torch.zeros(1, 3, 30, 32))
