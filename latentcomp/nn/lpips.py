"""LPIPS (Zhang et al., 2018): how different two images look, as a weighted distance between features of VGG-16.

    d(x, y) = sum_l mean over sites of w_l . (f_l(x) - f_l(y))^2,

with features f_l of unit length at each site and weights w_l fitted to human judgements. The ``lpips`` package holds the weights; this module wraps it so
that VGG's own may come from a local file, and so that it stays frozen. The published VQGAN code leaves the dropout on w_l active while training, which makes
its distance a noisy one: ``DropoutLPIPS``.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described
from latentcomp.nn.weights import convolutions
from latentcomp.noise import Noise


class LPIPS(Described, nn.Module):
    """The distance of version 0.1 on VGG-16, frozen and always in evaluation mode; a gradient flows to the images.

    Args:
        weights: a file of torchvision's VGG-16, ``features.0.weight`` and so on, as ``.safetensors`` or as a state that ``torch.load`` reads; None
            lets torchvision download them, and False leaves the network as it begins, for a state that is loaded into it.

    Attributes:
        network: its name.
        net: the package's name of it.
        least: the sides of the smallest image that it takes; VGG-16 halves an image four times before its last features.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: there is no such file.
        ConnectionError: the weights cannot be downloaded; says what to pass instead.
        ValueError: the file does not hold the convolutions of VGG-16.
    """

    left_out: ClassVar[Mapping[str, Any]] = MappingProxyType({"weights": False})  # the state holds them, and whoever loads it has no such file
    network: ClassVar[str] = "VGG-16"
    net: ClassVar[str] = "vgg"
    least: ClassVar[int] = 16

    def __init__(self, weights: str | Path | Literal[False] | None = None) -> None:
        super().__init__()
        self.distance = self._built(download=weights is None)
        if isinstance(weights, str | Path):
            _fill(self.distance.net, Path(weights), self.network)
        self.requires_grad_(False).eval()

    def _built(self, download: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package builds torchvision's network by a deprecated name
            try:
                return _package().LPIPS(net=self.net, pnet_rand=not download, verbose=False)
            except OSError as error:  # no network, one that broke off, or nowhere to put the file
                raise ConnectionError(
                    f"the weights of {self.network} could not be downloaded ({error}): pass a file of torchvision's, {type(self).__name__}(FILE), "
                    "fetched where there is a network"
                ) from error

    def train(self, mode: bool = True) -> "LPIPS":
        """Stays in evaluation mode, whatever contains it."""
        return super().train(False)

    def forward(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "*SB 3 H W"]) -> Float[Tensor, "*SB"]:
        """One distance for each y, from its x, in [-1, 1]: any number of y for each x, whose features are taken once.

        Raises:
            ValueError: the images do not have three channels, or are too small.
        """
        self._check(x, y)
        features = [self._features(images) for images in (x, y.reshape(-1, *y.shape[-3:]))]
        layers = enumerate(zip(*features, strict=True))
        return sum((self._layer(i, (a - b.view(*y.shape[:-3], *b.shape[1:])).square()) for i, (a, b) in layers), start=y.new_zeros(()))

    def cross(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "M 3 H W"], chunk: int = 128) -> Float[Tensor, "B M"]:
        """The distances of all pairs: f_x w f_x - 2 f_x w f_y + f_y w f_y, in float64, so that each image passes the network once and pairs cost a product.

        Raises:
            ValueError: the images do not have three channels, or are too small.
        """
        self._check(x, y)
        rows = [self._flat(part) for part in x.split(chunk)]
        return torch.cat([torch.cat([_distances(*a, *b) for a in rows]) for b in map(self._flat, y.split(chunk))], 1).to(y.dtype)

    def _flat(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """All features of an image as one vector, and the same vector weighted."""
        features = [f.double() for f in self._features(images)]
        weighted = [self.distance.lins[i].model[-1].weight.view(-1, 1, 1) * f / f[0, 0].numel() for i, f in enumerate(features)]
        a, b = (torch.cat([f.flatten(1) for f in parts], 1) for parts in (features, weighted))
        return a, b

    def _check(self, x: Tensor, y: Tensor) -> None:
        if x.shape[-3] != 3 or y.shape[-3] != 3:
            raise ValueError(
                f"{self.network} wants images of 3 channels, got {x.shape[-3]} and {y.shape[-3]}: repeat a grey channel, e.g. x.expand(-1, 3, -1, -1)"
            )
        if min(x.shape[-2:]) < self.least:
            raise ValueError(
                f"{self.network} wants images of at least {self.least} x {self.least} pixels, got {x.shape[-2]} x {x.shape[-1]}: enlarge them, or do "
                "without LPIPS"
            )

    def _features(self, images: Tensor) -> list[Tensor]:
        """Of unit length at each site, of five layers."""
        lpips = _package()
        return [lpips.normalize_tensor(f) for f in self.distance.net(self.distance.scaling_layer(images))]

    def _layer(self, layer: int, squares: Float[Tensor, "*SB F h w"]) -> Float[Tensor, "*SB"]:
        """The layer's share of the distance."""
        weight = self.distance.lins[layer].model[-1].weight.flatten()
        return torch.einsum("...fhw,f->...hw", squares, weight).mean((-2, -1))


class DropoutLPIPS(LPIPS):
    """The distance with half of its squared differences dropped, each by itself, while training: an unbiased and noisy one, as the published VQGANs saw it.

    Args:
        weights: as in :class:`LPIPS`.

    Attributes:
        noise: what decides, a stream for each image; None follows ``torch.manual_seed``. ``VQGAN`` sets it, so that splitting a batch changes nothing.
    """

    rate = 0.5

    def __init__(self, weights: str | Path | Literal[False] | None = None) -> None:
        super().__init__(weights)
        self.noise: Noise | None = None

    def train(self, mode: bool = True) -> "DropoutLPIPS":
        """Drops in training; the network stays in evaluation mode."""
        super().train(False)
        self.training = mode
        return self

    def cross(self, x: Float[Tensor, "B 3 H W"], y: Float[Tensor, "M 3 H W"], chunk: int = 128) -> Float[Tensor, "B M"]:
        """The distances of all pairs, without dropout.

        Raises:
            ValueError: it is training, or as in :class:`LPIPS`.
        """
        if self.training:
            raise ValueError("all pairs are a product only without dropout: call eval() first, or use LPIPS")
        return super().cross(x, y, chunk)

    def _layer(self, layer: int, squares: Float[Tensor, "*SB F h w"]) -> Float[Tensor, "*SB"]:
        if self.training:
            noise = self.noise or Noise.fresh(squares.shape[-4], squares.device)
            kept = noise.uniform(squares.shape[:-4], squares.shape[-3:]) >= self.rate
            squares = squares * kept / (1 - self.rate)
        return super()._layer(layer, squares)


def _distances(a: Tensor, weighted_a: Tensor, b: Tensor, weighted_b: Tensor) -> Tensor:
    squares = (a * weighted_a).sum(1).unsqueeze(1) + (b * weighted_b).sum(1)
    return (squares - 2 * weighted_a @ b.T).clamp(min=0)


def _package() -> ModuleType:
    try:
        import lpips
    except ImportError as error:
        raise ImportError("LPIPS needs the packages lpips and torchvision: python -m pip install 'latentcomp[taming]'") from error
    return lpips


def _fill(network: nn.Module, path: Path, name: str) -> None:
    """The package cuts a network into slices whose layers keep torchvision's numbers."""
    layers = {key.split(".")[-1]: module for key, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    wanted = {f"{number}.{part}": getattr(layer, part) for number, layer in layers.items() for part in ("weight", "bias")}
    for key, value in convolutions(path, name, wanted).items():
        wanted[key].data.copy_(value)
