"""Extractors against torchvision's own networks; missing and wrong weights."""

import os
from pathlib import Path

import pytest
import torch

from latentcomp.evaluate.extractors import AlexNet, Inception, Own, Vgg16
from latentcomp.nn.alex_lpips import AlexLPIPS

SHARED = os.environ.get("LATENTCOMP_SHARED")


def features(name):
    """torchvision's convolutions of random weights."""
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return (models.alexnet() if name == "alexnet" else models.vgg11()).features.eval()


def saved(network, path):
    torch.save({f"features.{key}": value for key, value in network.state_dict().items()}, path)
    return path


def test_alexnet_is_torchvision_s(tmp_path):
    network = features("alexnet")
    extractor = AlexNet(saved(network, tmp_path / "alexnet.pth"))
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    mean, scale = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network[:-1](((x + 1) / 2 - mean) / scale).mean((2, 3))
    assert torch.allclose(extractor(x), expected, atol=1e-5)
    assert torch.allclose(extractor(x[:, :1]), extractor(x[:, :1].expand(-1, 3, -1, -1)))
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())


@pytest.mark.skipif(SHARED is None, reason="LATENTCOMP_SHARED, the folder with weights, is not set")
def test_vgg16_is_torchvision_s():
    models = pytest.importorskip("torchvision.models")
    from safetensors.torch import load_file

    path = Path(SHARED) / "weights" / "vgg16_features.safetensors"
    with torch.device("meta"):
        network = models.vgg16().features
    network.load_state_dict({key.removeprefix("features."): value for key, value in load_file(path).items()}, assign=True)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, scale = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    extractor = Vgg16(path)
    assert torch.allclose(extractor(x), network.eval()[:-1](((x + 1) / 2 - mean) / scale).mean((2, 3)), atol=1e-4)
    assert extractor(x).shape == (1, extractor.num_features)


@pytest.mark.skipif(SHARED is None, reason="LATENTCOMP_SHARED, the folder with weights, is not set")
def test_lpips_on_alexnet_is_torchmetrics_with_these_weights():
    torchmetrics_lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    from safetensors.torch import load_file

    path = Path(SHARED) / "weights" / "alexnet_features.safetensors"
    other, state = torchmetrics_lpips._LPIPS(pretrained=True, net="alex", pnet_rand=True, eval_mode=True), load_file(path)
    for name, module in other.net.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.load_state_dict({part: state[f"features.{name.split('.')[-1]}.{part}"] for part in ("weight", "bias")})
    x, y = torch.rand(3, 3, 64, 64) * 2 - 1, torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(AlexLPIPS(path)(x, y), other(x, y).flatten(), rtol=1e-4)


def test_missing_weights_say_what_to_download_or_which_option_to_give(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"no weights of Inception-v3 at .*: download https://.*pth and pass weights=FILE. Without a network use another"
    ):
        Inception()
    for network in (Vgg16, AlexNet, AlexLPIPS):
        with pytest.raises(FileNotFoundError, match=r"there are no weights at .*nothing.pth: give a file of torchvision's network"):
            network(tmp_path / "nothing.pth")


def test_other_weights_are_refused(tmp_path):
    path = saved(features("vgg11"), tmp_path / "vgg11.pth")
    with pytest.raises(ValueError, match=r"vgg11.pth is not torchvision's vgg16: it lacks features.10.bias, "):
        Vgg16(path)
    with pytest.raises(ValueError, match=r"is not torchvision's alexnet: it lacks features.0.weight"):
        AlexNet(path)


def test_images_that_are_too_small_or_have_other_channels_are_refused(tmp_path, unchecked):
    extractor = AlexNet(saved(features("alexnet"), tmp_path / "alexnet.pth"))
    with pytest.raises(ValueError, match="alexnet wants images of at least 31 pixels a side"):
        extractor(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="one or three channels"):
        extractor(torch.zeros(1, 2, 64, 64))


def test_alexnet_s_lpips_knows_its_own_least_size(tmp_path, unchecked):
    pytest.importorskip("lpips")
    distance = AlexLPIPS(saved(features("alexnet"), tmp_path / "alexnet.pth"))
    assert distance(torch.rand(2, 3, 31, 40), torch.rand(2, 3, 31, 40)).isfinite().all()
    with pytest.raises(ValueError, match="AlexNet wants images of at least 31 x 31 pixels, got 30 x 31"):
        distance(torch.rand(1, 3, 30, 31), torch.rand(1, 3, 30, 31))
    with pytest.raises(ValueError, match="AlexNet wants images of 3 channels"):
        distance(torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64))


def test_an_own_classifier_has_logits():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :2]

    extractor = Own("mine", Two(), 2, Two(), 2)
    assert torch.equal(extractor.logits(torch.ones(3, 1, 2, 2)), torch.ones(3, 2))
    with pytest.raises(ValueError, match="use Inception, or Own with logits="):
        Own("mine", Two(), 2).logits(torch.ones(3, 1, 2, 2))
