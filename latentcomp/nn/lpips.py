"""LPIPS (Zhang et al., 2018): how different two images look, as a weighted distance between features of VGG-16.

    d(x, y) = sum_l mean over sites of w_l . (f_l(x) - f_l(y))^2,

with features f_l of unit length at each site and weights w_l fitted to human judgements. The ``lpips`` package holds the weights; this module wraps it so
that VGG's own may come from a local file, and so that it stays frozen: the published VQGAN code leaves the dropout on w_l active while training, which
makes its distance a noisy one.
"""

import warnings
from pathlib import Path
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LPIPS(nn.Module):
    """The distance of version 0.1 on VGG-16, frozen and always in evaluation mode; a gradient flows to the images.

    Args:
        weights: a file of torchvision's VGG-16, ``features.0.weight`` and so on, as ``.safetensors`` or as a state that ``torch.load`` reads; None
            lets torchvision download them.

    Raises:
        ImportError: the package is not installed.
        ValueError: the file does not hold the convolutions of VGG-16.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package builds torchvision's network by a deprecated name
            self.distance = _package().LPIPS(net="vgg", pnet_rand=weights is not None, verbose=False)
        if weights is not None:
            _fill(self.distance.net, _state(Path(weights)), Path(weights))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in evaluation mode, whatever contains it."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "B 3 H W"]) -> Float[Tensor, " B"]:
        """One distance for each pair of images in [-1, 1].

        Raises:
            ValueError: the images do not have three channels.
        """
        if x.shape[1] != 3 or y.shape[1] != 3:
            raise ValueError(f"VGG-16 wants images of 3 channels, got {x.shape[1]} and {y.shape[1]}: repeat a grey channel, e.g. x.expand(-1, 3, -1, -1)")
        return self.distance(x, y).flatten()


def _package() -> ModuleType:
    try:
        import lpips
    except ImportError as error:
        raise ImportError("LPIPS needs the packages lpips and torchvision: python -m pip install 'latentcomp[taming]'") from error
    return lpips


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"reading {path.name} needs the package safetensors: python -m pip install 'latentcomp[taming]'") from error
    return load_file(path)


def _fill(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """The package cuts VGG-16 into slices whose layers keep torchvision's numbers."""
    convolutions = {f"features.{name.split('.')[-1]}": m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    wanted = {f"{name}.{part}": getattr(m, part) for name, m in convolutions.items() for part in ("weight", "bias")}
    wrong = sorted(name for name, p in wanted.items() if name not in state or state[name].shape != p.shape)
    if wrong:
        raise ValueError(f"{path} is not torchvision's VGG-16: it lacks {', '.join(wrong)}, or holds them in another shape")
    for name, parameter in wanted.items():
        parameter.data.copy_(state[name])
