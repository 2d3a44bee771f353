"""How near reconstructions are to their images, pair by pair: PSNR, SSIM, LPIPS and the L1 distance, streamed over batches.

Each is a mean over images of one number an image, with its standard error. Both images lie in [-1, 1]; what a decoder gives beyond that is cut off first,
as it is when it is shown. PSNR is 10 log10(4 / MSE) of each image, before the mean is taken, as the field reports it. SSIM (Wang et al., 2004) has a
Gaussian window of deviation 1.5 around each pixel, channel by channel, the image mirrored at its borders, which takes 6 pixels a side; it compares means,
whose ratio depends on where 0 lies, so that it is taken of images moved to [0, 1], where black is 0 as in the publication.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from latentcomp.evaluate.protocol import Measure

RANGE = 2.0  # of pixels in [-1, 1]
UNITS = {"psnr": "dB"}
INFINITE = {"psnr": "infinite: an image equals its reconstruction"}
LEAST = 6  # pixels a side: SSIM's window reaches 5 pixels beyond its middle, and an image is mirrored at its border only as far as it goes
SMALL = f"an image is too small for SSIM's window: {LEAST} pixels a side are the least"
Distance = Callable[[Tensor, Tensor], Tensor]


class Mean:
    """A running mean over rows, and its standard error, without the rows (Chan, Golub and LeVeque, 1983)."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, values: Float[Tensor, " B"]) -> None:
        """Takes in more rows."""
        values = values.double()
        n, mean = len(values), float(values.mean())
        delta, total = mean - self.mean, self.n + n
        self.squares += float((values - mean).square().sum()) + delta**2 * self.n * n / total
        self.mean += delta * n / total if math.isfinite(delta) else mean  # else two infinite means, or an infinite and a finite one, would make nan
        self.n = total

    def measure(self, unit: str, infinite: str | None = None) -> Measure:
        """The mean; None with the reason where there were no rows, or it is nan, or infinite, for which ``infinite`` may say why."""
        if not self.n:
            return Measure(None, unit, None, "no images")
        if not math.isfinite(self.mean):
            return Measure(None, unit, None, "nan: that of an image is no number" if math.isnan(self.mean) else infinite or "infinite: that of an image is")
        return Measure(self.mean, unit, math.sqrt(self.squares / (self.n - 1) / self.n) if self.n > 1 else None)


class Fidelity:
    """The measures of pairs, over as many batches as come.

    Args:
        distances: perceptual distances by the name that they are to have, such as ``{"lpips": LPIPS(weights)}``; each takes two batches of three channels.
    """

    def __init__(self, distances: Mapping[str, Distance] = MappingProxyType({})) -> None:
        self.distances, self.means, self.small = distances, defaultdict[str, Mean](Mean), False

    @torch.no_grad()
    def update(self, x: Float[Tensor, "B C H W"], reconstruction: Float[Tensor, "B C H W"]) -> None:
        """Takes in a batch of images and their reconstructions; of those below 6 pixels a side there is no SSIM.

        Raises:
            ValueError: the images do not lie in [-1, 1], or the two have different shapes.
        """
        _check(x, reconstruction)
        reconstruction, small = reconstruction.clamp(-1, 1), min(x.shape[-2:]) < LEAST
        self.small |= small
        for name, values in _pairs(x, reconstruction, small).items():
            self.means[name].update(values)
        for name, distance in self.distances.items():
            self.means[name].update(distance(x.expand(-1, 3, -1, -1), reconstruction.expand(-1, 3, -1, -1)))

    def measures(self, prefix: str = "") -> dict[str, Measure]:
        """psnr, ssim, l1 and the perceptual distances, their names after ``prefix``; what has no number says why."""
        found = {name: mean.measure(UNITS.get(name, ""), INFINITE.get(name)) for name, mean in self.means.items()}
        found |= {"ssim": Measure(None, "", None, SMALL)} if self.small else {}
        return {prefix + name: measure for name, measure in found.items()}


def _pairs(x: Tensor, y: Tensor, small: bool) -> dict[str, Tensor]:
    peak_ratio, similarity = _functional()
    psnr = {"psnr": peak_ratio(y, x, data_range=RANGE, dim=(1, 2, 3), reduction="none")}
    ssim = {} if small else {"ssim": similarity((y + 1) / 2, (x + 1) / 2, data_range=1.0, reduction="none").reshape(len(x))}
    return psnr | ssim | {"l1": (x - y).abs().mean((1, 2, 3))}


def _functional() -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    try:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    except ImportError as error:
        raise ImportError("PSNR and SSIM need the package torchmetrics: python -m pip install 'latentcomp[images]'") from error
    return peak_signal_noise_ratio, structural_similarity_index_measure  # type: ignore[return-value]


def _check(x: Tensor, reconstruction: Tensor) -> None:
    if x.shape != reconstruction.shape:
        raise ValueError(f"images and reconstructions must have one shape, got {tuple(x.shape)} and {tuple(reconstruction.shape)}")
    if x.min() < -1 or x.max() > 1:
        raise ValueError(f"images must lie in [-1, 1], got values from {float(x.min()):g} to {float(x.max()):g}: rescale them, e.g. 2 x - 1 from [0, 1]")


def bicubic(x: Float[Tensor, "B C H W"], factor: int = 4) -> Float[Tensor, "B C H W"]:
    """Images made smaller by ``factor`` and enlarged again, as Pillow would: what a first stage of that stride has to beat.

    It keeps H W C / factor^2 real numbers of each image, where a first stage keeps H W / factor^2 codes.

    Raises:
        ValueError: the factor does not divide the sides.
    """
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"{factor} must divide the sides of the images, {height} x {width}")
    small = interpolate(x, (height // factor, width // factor), mode="bicubic", antialias=True)
    return interpolate(small, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)  # enlarging, antialias chooses Pillow's cubic and nothing else
