"""A VQGAN with any geometry of its codebook: what the rows of the reconstruction table differ in, put together from parts.

The weights of codebook, commitment and entropy act as in the published code: on means over the entries of h, beside a reconstruction loss that is a mean over
pixels. A normalised likelihood sums over pixels instead, in nats, and gets them in its own units.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.codebook.geometry import Geometry
from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.learners.learner import Learner
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vqgan import VQGAN
from latentcomp.likelihoods import Gaussian, Likelihood
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder, SiteEncoder
from latentcomp.nn.unet import Decoder, Encoder, Ladder
from latentcomp.phases.anneal import Annealed, Cosine
from latentcomp.phases.code_entropy import CodeEntropy
from latentcomp.phases.critic import Critic
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform
from latentcomp.taming.presets import Size


class Preset(NamedTuple):
    """A model and its learner."""

    model: LatentVariableModel
    learner: Learner


class Networks(NamedTuple):
    """Pictures to vectors ``(B, N, D)`` and back, and N."""

    encoder: nn.Module
    decoder: nn.Module
    vectors: int


class Flat(NamedTuple):
    """One grid of codes.

    Attributes:
        attention: whether the last level attends behind each of its blocks, too, as in the published code.
        extra: residual blocks a level that the decoder has more; 1 in the published code.
    """

    attention: bool = False
    extra: int = 0

    def ladder(self, size: Size) -> Ladder:
        """Widths and depths."""
        levels = (len(size.multipliers) - 1,) if self.attention else ()
        return Ladder(size.channels, size.multipliers, size.blocks, levels, extra=self.extra, group=size.group)

    def __call__(self, size: Size) -> Networks:
        """Encoder and decoder."""
        channels, ladder = size.image[0], self.ladder(size)
        encoder = SiteEncoder(Encoder(channels, size.features, ladder), size.features, size.width)
        decoder = SiteDecoder(Decoder(size.features, channels, ladder), size.width, size.features, size.grid)
        return Networks(encoder, decoder, math.prod(size.grid))


class Unit(NamedTuple):
    """How large a weight on means is beside a likelihood: for a weight on a mean over the entries of h, and for one on a mean over pixels."""

    entry: float
    pixel: float


def unit(likelihood: Likelihood, size: Size, vectors: int) -> Unit:
    """An energy is a mean over pixels already; a likelihood of scale s is a sum over them, each worth 1 / s."""
    pixel = math.prod(size.image) / float(likelihood.log_scale.exp()) if isinstance(likelihood, Gaussian) else 1.0
    return Unit(pixel / (vectors * size.width), pixel)


class Quantiser(Protocol):
    """How an encoder's vectors become codes, and how that is learned."""

    def __call__(self, encoder: nn.Module, codebook: Geometry, unit: Unit) -> Learner:
        """The learner."""
        ...


class Nearest(NamedTuple):
    """The nearest code, straight through.

    Attributes:
        codebook: the weight of the term that moves the codebook; the published code has 0.25 here and 1 below ("legacy").
        commitment: of the one that moves the encoder.
        gradient: how the gradient passes the lookup.
        entropy: the weight of the term that keeps codes in use, which LFQ needs.
    """

    codebook: float = 1.0
    commitment: float = 0.25
    gradient: Callable[[Tensor, Tensor], Tensor] = objectives.straight_through
    entropy: float = 0.0

    def __call__(self, encoder: nn.Module, codebook: Geometry, unit: Unit) -> Learner:
        """The learner."""
        entropy = CodeEntropy(self.entropy * unit.pixel) if self.entropy else None
        return StraightThrough(NearestCode(encoder), self.codebook * unit.entry, self.commitment * unit.entry, self.gradient, entropy)


class Relaxed(NamedTuple):
    """Gumbel-softmax over independent logits, as DALL-E has it.

    Attributes:
        temperature: of the relaxation, by the step.
        hard: whether the code itself is decoded, with the relaxed gradient, as in the published code.
    """

    temperature: Annealed = Cosine()
    hard: bool = True

    def __call__(self, encoder: nn.Module, codebook: Geometry, unit: Unit) -> Learner:
        """The learner; its KL(q || p(z)) is in nats over all sites, so that an energy's temperature is the weight of it."""
        head = nn.Linear(codebook.width, codebook.codes)
        return GumbelSoftmax(Factorised(encoder, head), Relaxation(self.temperature, self.hard))


def vqgan(
    size: Size,
    codebook: Geometry,
    quantiser: Quantiser,
    likelihood: Likelihood,
    networks: Callable[[Size], Networks] | None = None,
    critic: Critic | None = None,
) -> Preset:
    """Model and learner.

    Args:
        size: of networks and codes.
        codebook: the geometry; codes learned by gradient begin where their own start says.
        quantiser: :class:`Nearest` or :class:`Relaxed`.
        likelihood: of pictures, or a perceptual energy.
        networks: :class:`Flat` by default, or :class:`~experiments.taming.two_levels.TwoLevels`.
        critic: of reconstructions, or None.

    Raises:
        ValueError: the stride does not divide the picture, or codebook and size disagree on D.
    """
    if codebook.width != size.width:
        raise ValueError(f"{type(codebook).__name__} has codes of D={codebook.width} dimensions, and size.width={size.width}: set width={codebook.width}")
    encoder, decoder, vectors = (networks or Flat())(size)
    model = LatentVariableModel(Uniform(vectors * codebook.depth, codebook.codes), codebook, decoder, likelihood)
    learner = quantiser(encoder, codebook, unit(likelihood, size, vectors))
    return Preset(model, learner if critic is None else VQGAN(learner, critic))
