"""Feature extractors: the networks in whose eyes FID, KID and IS compare sets of images.

A distance is a distance in one extractor's features, and numbers of two extractors are not comparable; so an extractor has a name, and every measure made
with it carries that name. Published FIDs are ``inception``'s. Its weights cannot be had without a network: where they are missing, VGG-16's or AlexNet's
convolutions from a local file, or any module of your own in an :class:`Own`, will compare the rows of your own table just as well.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from latentcomp.nn.weights import convolutions

INCEPTION = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Extractor(nn.Module, ABC):
    """Images in [-1, 1] to one vector of features each; frozen, in evaluation mode.

    Attributes:
        name: what measures carry.
        num_features: F.
        classes: the number of logits that ``logits`` gives, 0 for an extractor that classifies nothing and so has no IS.
    """

    name: str
    num_features: int
    classes = 0

    @abstractmethod
    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The features."""

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """The logits of a classifier.

        Raises:
            ValueError: this extractor has none.
        """
        raise ValueError(f"the inception score wants an extractor that classifies, and {self.name} gives features only: use Inception, or Own with logits=")

    def frozen(self) -> "Extractor":
        """Itself, without gradients, in evaluation mode."""
        return self.requires_grad_(False).eval()

    def _colour(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"{self.name} looks at images of one or three channels, (B, C, H, W); got {tuple(x.shape)}")
        return x.expand(-1, 3, -1, -1)


class Convolutional(Extractor):
    """An ImageNet classifier's convolutions, the last map's mean over sites for features; grey images count as colour ones without colours.

    Args:
        name: of the extractor.
        layers: numbered as in torchvision's ``features``.
        weights: a file with ``features.0.weight`` and so on, ``.safetensors`` or what ``torch.load`` reads.
        width: F.
        least: the smallest side of an image that the strides leave something of.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, name: str, layers: nn.Sequential, weights: str | Path, width: int, least: int) -> None:
        super().__init__()
        self.name, self.num_features, self.least, self.layers = name, width, least, layers
        for buffer, values in zip(("mean", "scale"), IMAGENET, strict=True):
            self.register_buffer(buffer, torch.tensor(values).view(3, 1, 1))
        layers.load_state_dict(convolutions(Path(weights), name, layers.state_dict()))
        self.frozen()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The mean of the last map.

        Raises:
            ValueError: the images are too small for the network's strides.
        """
        if min(x.shape[-2:]) < self.least:
            raise ValueError(
                f"{self.name} wants images of at least {self.least} pixels a side, got {tuple(x.shape[-2:])}: enlarge them, or use another extractor"
            )
        return adaptive_avg_pool2d(self.layers(((self._colour(x) + 1) / 2 - self.mean) / self.scale), 1).flatten(1)


class Vgg16(Convolutional):
    """VGG-16 up to its last convolution's ReLU (Simonyan and Zisserman, 2015): 512 features.

    Args:
        weights: a file of torchvision's VGG-16.
    """

    def __init__(self, weights: str | Path) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG16:
            layers += [nn.MaxPool2d(2)] if isinstance(width, str) else [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = channels if isinstance(width, str) else width
        super().__init__("vgg16", nn.Sequential(*layers), weights, 512, 16)


class AlexNet(Convolutional):
    """AlexNet up to its last convolution's ReLU (Krizhevsky, 2014): 256 features.

    Args:
        weights: a file of torchvision's AlexNet.
    """

    def __init__(self, weights: str | Path) -> None:
        relu, pool = nn.ReLU, nn.MaxPool2d
        first = [nn.Conv2d(3, 64, 11, 4, 2), relu(), pool(3, 2), nn.Conv2d(64, 192, 5, padding=2), relu(), pool(3, 2)]
        last = [nn.Conv2d(192, 384, 3, padding=1), relu(), nn.Conv2d(384, 256, 3, padding=1), relu(), nn.Conv2d(256, 256, 3, padding=1), relu()]
        super().__init__("alexnet", nn.Sequential(*first, *last), weights, 256, 31)


class Inception(Extractor):
    """The Inception-v3 of published FIDs (Heusel et al., 2017), as torch-fidelity ported it: 2,048 features and 1,008 logits.

    Args:
        weights: ``weights-inception-2015-12-05-6726825d.pth``; None for where torch keeps what it has downloaded.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: there is no such file; says what to download, and what to do without.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        self.name, self.num_features, self.classes = "inception", 2048, 1008
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(INCEPTION).name if weights is None else Path(weights)
        if not path.is_file():
            raise FileNotFoundError(
                f"there are no weights of Inception-v3 at {path}: download {INCEPTION} and pass weights=FILE. Without a network use another extractor, "
                "such as Vgg16(weights) or Own(module); its numbers then compare rows of one table, not with published FIDs"
            )
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ImportError("Inception features need the package torch-fidelity: python -m pip install 'latentcomp[images]'") from error
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
        self.frozen()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The pooled features of images turned into bytes and resized to 299x299, as published."""
        return self.network(self._bytes(x))[0]

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """The logits without their bias, as published."""
        return self.network(self._bytes(x))[1]

    def _bytes(self, x: Tensor) -> Tensor:
        return ((self._colour(x).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class Own(Extractor):
    """Any module of yours.

    Args:
        name: what measures carry.
        features: images in [-1, 1], ``(B, C, H, W)``, to features ``(B, F)``.
        width: F.
        logits: a module that gives a classifier's logits ``(B, L)`` of the same images; None for no IS.
        classes: L.
    """

    def __init__(self, name: str, features: nn.Module, width: int, logits: nn.Module | None = None, classes: int = 0) -> None:
        super().__init__()
        self.name, self.num_features, self.classes = name, width, classes
        self.features, self.classifier = features, logits
        self.frozen()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The module's features.

        Raises:
            ValueError: they do not have the promised shape.
        """
        features = self.features(x)
        if features.shape != (len(x), self.num_features):
            raise ValueError(f"{self.name} promised features (B, {self.num_features}), but its module gives {tuple(features.shape)}: flatten or pool them")
        return features

    def logits(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """The module's logits."""
        return super().logits(x) if self.classifier is None else self.classifier(x)
