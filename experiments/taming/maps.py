"""First stages of conditions: label maps and depth, as codes that stand before those of a picture.

Both quantise by running means and know no critic. Label maps have a class a pixel: cross-entropy, as the paper says (its code has a coin for each class). Depth
has a Laplace likelihood, an L1 loss.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import one_hot

from experiments.taming.vqgan import Flat, Preset
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.likelihoods import Categorical, Laplace, Likelihood
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder, SiteEncoder
from latentcomp.nn.unet import Decoder, Encoder
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform
from latentcomp.taming.presets import Size


class OneHot(nn.Module):
    """Maps of class numbers ``(B, 1, H, W)`` as one channel for each class.

    Args:
        classes: L.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, c: Tensor) -> Tensor:
        """Zeros and ones ``(B, L, H, W)``.

        Raises:
            ValueError: a class lies outside 0..L-1.
        """
        if c.is_cpu and bool(((c < 0) | (c >= self.classes)).any()):
            raise ValueError(
                f"label maps must hold classes 0..{self.classes - 1}; got values from {int(c.min())} to {int(c.max())}: number them anew, or set task.classes"
            )
        return one_hot(c[:, 0].long(), self.classes).movedim(-1, 1).float()


class Maps(NamedTuple):
    """How the condition's pictures are read and scored: channels in and out, what comes before the encoder, and the likelihood."""

    channels: int
    before: nn.Module
    likelihood: Likelihood


def _built(size: Size, maps: Maps, restart: float) -> Preset:
    ladder = Flat().ladder(size)
    codebook = EMACodebook(size.codes, size.width, restart)
    for vectors in (codebook.weight, codebook.sums):
        vectors.mul_(0.1)  # near the origin an encoder's first outputs tell codes apart by direction; far from it one code is nearest to all
    decoder = SiteDecoder(Decoder(size.features, maps.channels, ladder), size.width, size.features, size.grid)
    model = LatentVariableModel(Uniform(math.prod(size.grid), size.codes), codebook, decoder, maps.likelihood)
    encoder = SiteEncoder(Encoder(maps.channels, size.features, ladder), size.features, size.width)
    return Preset(model, StraightThrough(NearestCode(nn.Sequential(maps.before, encoder))))


def label_maps(size: Size, classes: int, restart: float = 0.02) -> Preset:
    """Of maps of class numbers.

    Args:
        size: of networks and codes.
        classes: L.
        restart: codes that are used less than this share of the even use, in running mean, move onto encoder outputs.
    """
    return _built(size, Maps(classes, OneHot(classes), Categorical(classes)), restart)


def depth_maps(size: Size, scale: float = 0.1, restart: float = 0.02) -> Preset:
    """Of grey maps in [-1, 1]; arguments as of :func:`label_maps`, with the scale of the Laplace likelihood."""
    return _built(size, Maps(1, nn.Identity(), Laplace(scale)), restart)
