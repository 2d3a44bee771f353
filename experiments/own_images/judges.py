"""What a run on pictures is measured by, as far as weights for it are at hand."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from latentcomp.batch import Batch
from latentcomp.data.views import View
from latentcomp.evaluate.extractors import INCEPTION, Extractor, Inception, Vgg16
from latentcomp.evaluate.fidelity import Distance, Fidelity, bicubic
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.nn.alex_lpips import AlexLPIPS
from latentcomp.nn.lpips import LPIPS

VGG, ALEX = "vgg16_features.safetensors", "alexnet_features.safetensors"


def judges(weights: str | Path | None, signed: bool) -> ImageMeasures:
    """The measures of a run.

    Args:
        weights: the folder with ``vgg16_features.safetensors`` and ``alexnet_features.safetensors``, and with the weights of Inception for published FIDs where
            they are to be had; None for PSNR, SSIM and L1 alone.
        signed: whether images lie in [-1, 1].

    Raises:
        FileNotFoundError: a file is missing.
    """
    if weights is None:
        return ImageMeasures(signed=signed)
    folder = Path(weights)
    distances: Mapping[str, Distance] = {"lpips": LPIPS(_file(folder / VGG)), "lpips_alex": AlexLPIPS(_file(folder / ALEX))}
    extractors: list[Extractor] = [Vgg16(_file(folder / VGG))]
    inception = folder / Path(INCEPTION).name
    if inception.is_file():
        extractors.append(Inception(inception))
    return ImageMeasures(distances, extractors, signed=signed)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"weights={path.parent} lacks {path.name}, the convolutions of torchvision's network (features.0.weight and so on): save them there on a machine "
            "with a network, or give weights=null, which leaves LPIPS and rFID out"
        )
    return path


@torch.no_grad()
def bicubic_measures(batches: Iterable[Batch], factor: int, view: View, distances: Mapping[str, Distance]) -> dict[str, Measure]:
    """The same measures of images made smaller and enlarged again, after ``bicubic_``."""
    fidelity = Fidelity(distances)
    for batch in batches:
        x = batch.x if view.signed else 2 * batch.x - 1
        fidelity.update(x, bicubic(x, factor))
    return fidelity.measures("bicubic_")


def numbers(measures: Mapping[str, Measure]) -> dict[str, float]:
    """As numbers; nan where there is none."""
    return {name: math.nan if measure.value is None else measure.value for name, measure in measures.items()}
