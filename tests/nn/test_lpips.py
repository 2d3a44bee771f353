"""LPIPS stays frozen, and reads VGG-16 from a local file. Its values are held against the published code's in tests/taming."""

import sys

import pytest
import torch

from latentcomp.nn.lpips import LPIPS

LAYERS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256), 17: (512, 256)}
LAYERS |= {i: (512, 512) for i in (19, 21, 24, 26, 28)}


def vgg() -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names."""
    generator = torch.Generator().manual_seed(0)
    state = {f"features.{i}.weight": torch.randn(*shape, 3, 3, generator=generator) / (9 * shape[1]) ** 0.5 for i, shape in LAYERS.items()}
    return state | {f"features.{i}.bias": torch.zeros(shape[0]) for i, shape in LAYERS.items()}


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


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'latentcomp\[taming\]'"):
        LPIPS()
