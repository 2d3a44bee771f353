"""FID, KID and IS against closed forms and plain numpy, with features that can be written down."""

import math
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from latentcomp.evaluate.extractors import Own
from latentcomp.evaluate.realism import Realism


class Pixels(nn.Module):
    """The pixels themselves."""

    def forward(self, x):
        return x.flatten(1)


def extractor(width=4, classes=0):
    return Own("pixels", Pixels(), width, Pixels() if classes else None, classes)


def images(features: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(features, dtype=torch.float64).view(len(features), 1, 1, -1)


def whitened(n: int, mean: np.ndarray, factor: np.ndarray, seed: int) -> np.ndarray:
    """n points whose sample mean and covariance are exactly ``mean`` and ``factor factor^T``."""
    points = np.random.default_rng(seed).normal(size=(n, len(mean)))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return points @ factor.T + mean


def measured(real, made, size=30, kinds=("fid", "kid"), width=4, classes=0, **settings):
    realism = Realism(extractor(width, classes), kinds, **settings)
    for x in images(real).split(size):
        realism.update(x, real=True)
    for x in images(made).split(size):
        realism.update(x, real=False)
    return realism.measures("r")


def test_fid_of_gaussians_with_known_moments():
    """Commuting covariances: |m - m'|^2 + sum (s - s')^2."""
    m, s, m2, s2 = np.array([0.1, 0, 0, 0]), np.array([0.1, 0.05, 0.02, 0.1]), np.array([0, 0.05, 0, 0]), np.array([0.05, 0.05, 0.04, 0.02])
    found = measured(whitened(100, m, np.diag(s), 0), whitened(90, m2, np.diag(s2), 1))["rfid_pixels"]
    assert found.value == pytest.approx(((m - m2) ** 2).sum() + ((s - s2) ** 2).sum(), rel=1e-6)
    assert found.reason is None


def test_fid_of_any_features_against_scipy():
    rng = np.random.default_rng(0)
    real, made = rng.uniform(-1, 1, (120, 4)) @ rng.normal(size=(4, 4)) * 0.2, rng.uniform(-1, 1, (80, 4)) ** 3
    real = real.clip(-1, 1)
    c, d = np.cov(real.T), np.cov(made.T)
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    assert measured(real, made)["rfid_pixels"].value == pytest.approx(expected, rel=1e-6)
    assert measured(real, real)["rfid_pixels"].value == pytest.approx(0, abs=1e-9)


def test_kid_against_a_plain_sum():
    """With subsets as large as the sets, each is the whole: the unbiased estimator, pair by pair."""
    rng = np.random.default_rng(1)
    real, made = rng.uniform(-1, 1, (12, 4)), rng.uniform(-1, 0.5, (12, 4))
    kernel = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    inside = lambda s: sum(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (12 * 11)  # noqa: E731
    expected = inside(real) + inside(made) - 2 * sum(kernel(a, b) for a in real for b in made) / 144
    found = measured(real, made, 5)["rkid_pixels"]
    assert found.value == pytest.approx(expected, rel=1e-5)


def test_kid_of_subsets_is_a_function_of_the_seed():
    rng = np.random.default_rng(2)
    real, made = rng.uniform(-1, 1, (60, 4)), rng.uniform(-1, 0.5, (60, 4))
    one, again, *others = (measured(real, made, kinds=("kid",), subset=20, seed=seed)["rkid_pixels"] for seed in (0, *range(20)))
    assert one == again != others[0]
    values = np.array([measure.value for measure in (one, *others)])
    whole = measured(real, made, kinds=("kid",))["rkid_pixels"].value
    assert abs(values.mean() - whole) < 6 * values.std(ddof=1) / math.sqrt(len(values))  # error rate: 1e-5 (Student's t, 19 degrees)
    assert {measure.stderr for measure in (one, *others)} == {None}, "the spread of overlapping subsets is no standard error"


def score(p: np.ndarray) -> float:
    return math.exp((p * np.log(p / p.mean(0))).sum(1).mean())


def test_is_against_its_formula():
    """Over all images, and over ten splits of four, whichever images are in which: the mean and the deviation of the splits' scores."""
    logits = np.random.default_rng(3).uniform(-1, 1, (40, 4)) * 3
    p = np.exp(logits.clip(-1, 1)) / np.exp(logits.clip(-1, 1)).sum(1, keepdims=True)
    found = measured(logits, logits, kinds=("is",), classes=4, splits=1)
    assert found.keys() == {"ris_pixels"}
    assert found["ris_pixels"].value == pytest.approx(score(p), rel=1e-5)
    torch.manual_seed(5)
    scores = [score(p[part]) for part in torch.randperm(40).numpy().reshape(10, 4)]
    found = measured(logits, logits, kinds=("is",), classes=4, seed=5)
    assert found["ris_pixels"].value == pytest.approx(np.mean(scores), rel=1e-5)
    assert found["ris_deviation_pixels"].value == pytest.approx(np.std(scores, ddof=1), rel=1e-4)
    assert found["ris_pixels"].reason is None
    assert measured(logits, logits, kinds=("is",), classes=4, seed=6) != found


def test_too_few_images_are_said():
    few = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    assert "of 4 images, 4 features have singular covariances" in measured(few, few, kinds=("fid",))["rfid_pixels"].reason
    with pytest.raises(ValueError, match="at least two images of each, got 4 real and 1 made ones"):
        measured(few, few[:1])
    with pytest.raises(ValueError, match="a mean over 10 splits, and 4 images were made: make more, or pass splits=4"):
        measured(few, few, kinds=("is",), classes=4)
    assert "1 images a split cannot show 4 classes" in measured(few, few, kinds=("is",), classes=4, splits=4)["ris_pixels"].reason
    with pytest.raises(ValueError, match="one split or more, got splits=0"):
        Realism(extractor(classes=4), ("is",), splits=0)


def test_what_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="no distance fud here; known: fid, kid, is"):
        Realism(extractor(), ("fud",))
    with pytest.raises(ValueError, match="wants an extractor that classifies, and pixels gives features only"):
        Realism(extractor(), ("is",))
    with pytest.raises(ValueError, match=r"pixels promised features \(B, 5\), but its module gives \(2, 4\)"):
        Realism(extractor(5)).update(torch.zeros(2, 1, 2, 2), real=True)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"pip install 'latentcomp\[images\]'"):
        Realism(extractor())
