"""In whose eyes samples are judged, and by whom they are rejected.

Published FIDs and IS are Inception's, and the paper rejects by a ResNet-101; both need weights that come from the network. Where small pictures stand in,
small classifiers do both, trained on the stand-in's own classes: their numbers compare the rows of one table, and nothing else. Judge and rejector are trained
from different seeds, so that none is chosen by whom it is judged by.
"""

from pathlib import Path
from typing import NamedTuple, cast
from urllib.error import URLError

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from experiments.making import made
from experiments.taming.sets import Source, Standin
from latentcomp.evaluate.extractors import IMAGENET, INCEPTION, Extractor, Inception, Own, Vgg16
from latentcomp.noise import permutation

SIDE = 8  # pixels that a small classifier sees


class Judges(NamedTuple):
    """Who judges the samples of a row, and who rejects some of them, if any are.

    Attributes:
        judge: of FID and IS.
        rejector: a classifier; None where all samples are kept.
    """

    judge: Extractor
    rejector: nn.Module | None


def called(config: DictConfig, data: Source) -> Judges | None:
    """Those of a row, to be called before anything is learned, so that weights that are missing are asked for at once; None for a row without samples.

    Raises:
        SystemExit: weights or classes that they want are not there, or samples without a class are to be rejected.
    """
    if config.sampling is None:
        return None
    rejects = config.sampling.get("acceptance", 1.0) < 1
    if rejects and config.task.condition != "class":
        raise SystemExit(f"error: sampling.acceptance={config.sampling.acceptance}: samples of a class are rejected, and this row has none: set it to 1")
    return Judges(made(config.budget.judge, data, config.weights), made(config.budget.rejector, data) if rejects else None)


class Features(nn.Module):
    """Pictures in little, and one hidden layer.

    Args:
        channels: C.
        width: F.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.read = nn.Linear(channels * SIDE**2, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, F)``."""
        return self.read(adaptive_avg_pool2d(x, SIDE).flatten(1)).relu()


@torch.enable_grad()
def trained(data: Source, seed: int, width: int = 64, updates: int = 400, size: int = 100) -> nn.Sequential:
    """A classifier of the stand-in's training pictures: features, then logits.

    Raises:
        SystemExit: these pictures have no classes; says what to use instead.
    """
    if not isinstance(data, Standin) or data.labels is None:
        raise SystemExit(
            "error: a small classifier learns from classes, and these pictures have none: judge by budget.judge._target_=experiments.taming.judges.vgg16 with "
            "weights=FOLDER, or by experiments.taming.judges.inception"
        )
    x, y = data.parts["train"].x, data.labels["train"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(Features(x.shape[1], width), nn.Linear(width, int(y.max()) + 1))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for update in range(updates):
        row = permutation(len(x), seed, update)[:size]
        optimizer.zero_grad(set_to_none=True)
        cross_entropy(network(x[row]), y[row]).backward()
        optimizer.step()
    return network.requires_grad_(False).eval()


def classifier(data: Source, weights: str | None, seed: int = 1) -> Extractor:
    """A small classifier as a judge of FID and IS: the same for all rows of a seed."""
    network = trained(data, seed)
    head = cast(nn.Linear, network[1])
    return Own("classifier", network[0], head.in_features, network, head.out_features)


def vgg16(data: Source, weights: str | None) -> Extractor:
    """VGG-16's convolutions, from ``weights``/vgg16_features.safetensors; no IS.

    Raises:
        SystemExit: there is no such folder.
    """
    if weights is None:
        raise SystemExit("error: judging by VGG-16 wants weights=FOLDER, the folder of vgg16_features.safetensors")
    return Vgg16(Path(weights) / "vgg16_features.safetensors")


def inception(data: Source, weights: str | None) -> Extractor:
    """The judge of published FIDs, from ``weights`` if its file is there, else from where torch keeps what it has downloaded.

    Raises:
        SystemExit: its weights are in neither place; says where from and where to.
    """
    own = None if weights is None else Path(weights) / Path(INCEPTION).name
    try:
        return Inception(own if own is not None and own.is_file() else None)
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}. Here weights=FOLDER names the folder of the file") from None


def rejector(data: Source) -> nn.Module:
    """A small classifier that rejects samples, of another seed than the judge."""
    return trained(data, 2)


class ResNet101(nn.Module):
    """torchvision's ResNet-101 on pictures in [-1, 1], as the paper rejects by; its weights are downloaded where they are not there."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import ResNet101_Weights, resnet101

        for buffer, values in zip(("mean", "scale"), IMAGENET, strict=True):
            self.register_buffer(buffer, torch.tensor(values).view(3, 1, 1))
        self.network = resnet101(weights=ResNet101_Weights.IMAGENET1K_V1).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the thousand classes, numbered as the folders of ImageNet are in alphabetical order."""
        return self.network(((x.clamp(-1, 1) + 1) / 2 - self.mean) / self.scale)


def resnet101(data: Source) -> nn.Module:
    """The paper's rejector.

    Raises:
        SystemExit: its weights are not there and cannot be downloaded; says where to put them, and what to do without.
    """
    try:
        return ResNet101()
    except URLError as error:
        raise SystemExit(
            f"error: ResNet-101, which rejects samples, could not be downloaded ({error.reason}): put torchvision's file of its weights (IMAGENET1K_V1) into "
            f"{torch.hub.get_dir()}/checkpoints, or keep all samples by sampling.acceptance=1"
        ) from None
