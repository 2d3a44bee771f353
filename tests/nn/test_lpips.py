"""LPIPS stays frozen, and reads VGG-16 from a local file. Its values are held against the published code's in tests/taming."""

import sys
from urllib.error import URLError

import pytest
import torch

from latentcomp.nn.lpips import LPIPS, DropoutLPIPS
from latentcomp.noise import Noise
from tests.nn.vgg import vgg


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The weights as a file."""
    pytest.importorskip("lpips")
    file = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(vgg(), file)
    return file


@pytest.fixture(scope="module")
def distance(path):
    """The distance on them."""
    return LPIPS(path)


def test_it_is_the_package_with_these_weights(distance, path):
    state = vgg()
    for name, module in distance.distance.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert torch.equal(module.weight, state[f"features.{name.split('.')[-1]}.weight"])
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(state, path.with_suffix(".safetensors"))
    x, y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert torch.equal(LPIPS(path.with_suffix(".safetensors"))(x, y), distance(x, y))
    torch.testing.assert_close(distance(x, y), distance.distance(x, y).flatten())


def test_any_number_of_samples_for_each_image(distance):
    x, y = torch.rand(2, 3, 16, 16), torch.rand(3, 2, 3, 16, 16)
    given = distance(x, y)
    assert given.shape == (3, 2)
    torch.testing.assert_close(given, torch.stack([distance.distance(x, row).flatten() for row in y]))


@pytest.fixture(scope="module")
def noisy(path):
    """The distance with dropout, on the same weights."""
    return DropoutLPIPS(path)


def test_dropout_is_unbiased_with_the_published_variance_and_ends_with_training(distance, noisy, unchecked):
    """Error rate: 1e-6 for the mean (4.9 standard errors), about as much for the variance (five of a normal's)."""
    draws = 400
    x, y = (torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert torch.equal(noisy.eval()(x, y), distance(x, y))
    assert not any(module.training for name, module in noisy.train().named_modules() if name)
    noisy.noise = Noise(0, 0, torch.arange(1))
    squares = [(a - b).square() for a, b in zip(noisy._features(x), noisy._features(y), strict=True)]
    samples = sum(noisy._layer(i, s.expand(draws, 1, *s.shape[1:])) for i, s in enumerate(squares)).flatten()
    terms = [s * distance.distance.lins[i].model[-1].weight / s[0, 0].numel() for i, s in enumerate(squares)]
    variance = float(sum(t.square().sum() for t in terms))  # each term is 0 or twice itself
    assert abs(float(samples.mean() - distance(x, y))) < 4.9 * (variance / draws) ** 0.5
    assert abs(float(samples.var()) / variance - 1) < 5 * (2 / draws) ** 0.5


def test_dropout_is_each_image_s_own(noisy):
    noisy.train()
    x, y = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
    noisy.noise = Noise(1, 2, torch.tensor([7, 8, 9]))
    whole = noisy(x, y)
    noisy.noise = Noise(1, 2, torch.tensor([9]))
    torch.testing.assert_close(noisy(x[2:], y[2:]), whole[2:])
    noisy.noise = None
    torch.manual_seed(0)
    first = noisy(x, y)
    torch.manual_seed(0)
    assert torch.equal(noisy(x, y), first)


def test_all_pairs_are_the_pairs_one_by_one(distance, noisy):
    x, y = torch.rand(3, 3, 16, 16), torch.rand(5, 3, 16, 16, requires_grad=True)
    y.data[4] = x[1]
    pairs = distance.cross(x, y, chunk=2)
    torch.testing.assert_close(pairs, torch.stack([distance(image.expand_as(y), y) for image in x]), atol=1e-6, rtol=1e-5)
    assert float(pairs[1, 4].detach()) == pytest.approx(0, abs=1e-7)
    (gradient,), (one_by_one,) = (torch.autograd.grad(d.sum(), y) for d in (pairs[0, :4], distance(x[:1].expand(4, -1, -1, -1), y[:4])))
    torch.testing.assert_close(gradient, one_by_one, atol=1e-6, rtol=1e-3)
    assert torch.equal(noisy.eval().cross(x, y), distance.cross(x, y))
    with pytest.raises(ValueError, match="call eval"):
        noisy.train().cross(x, y)
    with pytest.raises(ValueError, match="at least 16 x 16 pixels"):
        distance.cross(x[..., :8], y[..., :8])


def test_images_too_small_for_vgg_are_refused(distance):
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 8 x 16"):
        distance(torch.rand(1, 3, 8, 16), torch.rand(1, 3, 8, 16))


def test_one_distance_for_each_pair_and_a_gradient_to_the_images_alone(distance):
    x, y = torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16, requires_grad=True)
    d = distance(x, y)
    assert d.shape == (3,)
    assert (d > 0).all()
    assert torch.equal(distance(x, x), torch.zeros(3))
    d.sum().backward()
    assert y.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in distance.parameters())


def test_it_stays_in_evaluation_mode(distance):
    x, y = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    torch.nn.Sequential(distance).train()
    assert not any(module.training for module in distance.modules())
    assert torch.equal(distance(x, y), distance(x, y))


def test_grey_images_are_refused(distance, unchecked):
    with pytest.raises(ValueError, match=r"3 channels, got 1 and 1: repeat a grey channel"):
        distance(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))


def test_other_weights_are_refused(tmp_path):
    pytest.importorskip("lpips")
    state = vgg()
    del state["features.28.bias"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth is not torchvision's VGG-16: it lacks features.28.bias"):
        LPIPS(tmp_path / "other.pth")


def test_a_missing_file_says_what_to_give(tmp_path):
    pytest.importorskip("lpips")
    for kind in (LPIPS, DropoutLPIPS):
        with pytest.raises(FileNotFoundError, match=r"there are no weights at .*nothing.pth: give a file of torchvision's network"):
            kind(tmp_path / "nothing.pth")


@pytest.mark.parametrize("error", [URLError("no route"), ConnectionResetError("reset by peer"), PermissionError(13, "Permission denied")])
@pytest.mark.parametrize("kind", [LPIPS, DropoutLPIPS])
def test_weights_that_cannot_be_downloaded_are_asked_for(kind, error, monkeypatch, tmp_path):
    pytest.importorskip("lpips")

    def failing(*arguments, **settings):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing has been downloaded before
    monkeypatch.setattr(torch.hub, "download_url_to_file", failing)
    wanted = rf"the weights of VGG-16 could not be downloaded \(.*{error.args[-1]}.*\): pass a file of torchvision's, {kind.__name__}\(FILE\)"
    with pytest.raises(ConnectionError, match=wanted) as caught:
        kind()
    assert caught.value.__cause__ is error


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'latentcomp\[taming\]'"):
        LPIPS()
