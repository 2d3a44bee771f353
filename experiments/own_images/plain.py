"""A first stage without a critic: the encoder and decoder of VQGAN around vector quantisation by running means, with a Laplace likelihood (an L1 loss)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from latentcomp.codebook import EMACodebook
from latentcomp.learners.learner import Learner
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.likelihoods import Laplace
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder, SiteEncoder
from latentcomp.nn.unet import Decoder, Encoder, Ladder
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform


class Preset(NamedTuple):
    """A model and its learner."""

    model: LatentVariableModel
    learner: Learner


@dataclass(frozen=True)
class Size:
    """How large.

    Attributes:
        image: (C, H, W).
        codes: K.
        width: D.
        features: of the maps between networks and codebook.
        channels: of the first level.
        multipliers: of the levels' channels; m levels halve the image m - 1 times.
        blocks: residual blocks a level.
        group: the fewest channels in a group of the norms; the published networks' narrowest groups have 4, at 128 channels. Of 32 groups at 32 channels
            each would take its only channel's mean away, and reconstructions stay the grey mean of all pictures.
    """

    image: Sequence[int] = (3, 32, 32)
    codes: int = 512
    width: int = 32
    features: int = 64
    channels: int = 32
    multipliers: Sequence[int] = (1, 2, 2)
    blocks: int = 1
    group: int = 4


def plain(size: Size | None = None, scale: float = 0.1, restart: float = 0.05) -> Preset:
    """Model and learner.

    Args:
        size: of the networks.
        scale: of the Laplace likelihood, in units of pixels in [-1, 1]: it weighs reconstruction against commitment.
        restart: codes assigned less often than so many times a step, in running mean, move onto encoder outputs.

    Raises:
        ValueError: the stride does not divide the image.
    """
    size = size or Size()
    ladder = Ladder(size.channels, tuple(size.multipliers), size.blocks, attention=(), group=size.group)
    channels, height, width = size.image
    if height % ladder.stride or width % ladder.stride:
        raise ValueError(f"{len(size.multipliers)} levels make a stride of {ladder.stride}, which must divide the image; got {height} x {width}")
    grid = (height // ladder.stride, width // ladder.stride)
    decoder = SiteDecoder(Decoder(size.features, channels, ladder), size.width, size.features, grid)
    codebook = EMACodebook(size.codes, size.width, restart)
    for vectors in (codebook.weight, codebook.sums):
        vectors.mul_(0.1)  # near the origin, where an encoder's first outputs tell codes apart by direction; far from it one code is nearest to all
    model = LatentVariableModel(Uniform(math.prod(grid), size.codes), codebook, decoder, Laplace(scale))
    encoder = SiteEncoder(Encoder(channels, size.features, ladder), size.features, size.width)
    return Preset(model, StraightThrough(NearestCode(encoder)))
