"""Three VQGANs: as the paper writes it, as the published code computes it, and with what has been learned since; the same model without a critic, and under
GFlowNet-EM.

|                | ``paper`` | ``taming`` | ``modern`` |
|:---------------|:----------|:-----------|:-----------|
| reconstruction | LPIPS alone ("replaced by a perceptual loss") | L1 + LPIPS with dropout on its weights | L1 + LPIPS |
| codebook, commitment | 1, 1 (eq. 4) | 0.25, 1 ("legacy") | 1, 0.25 |
| game | log D(x) + log(1 - D(x_hat)), zero-sum (eq. 5, 6) | hinge, generator linear | hinge, LeCAM |
| lambda | delta 1e-6, no ceiling (eq. 7) | 0.8 times, delta 1e-4, at most 1e4 | as the code's |
| critic | batch norm | batch norm; judges reconstructions made anew | group norm |
| start | a jump | a jump, of a critic that has learned nothing | learns before it counts; a linear ramp |
| attention | one, at the lowest resolution (table 7) | behind each block of the last level, too | one, at the lowest resolution |
| decoder | the encoder's mirror image | one block a level more | the encoder's mirror image |
| codebook | gradient, start within 1/K | gradient, start within 1/K | ``codebook.modern``: running means on the sphere, k-means start |
| dead codes | stay | stay | restart |

Both weights act on means over the entries of h, as in the code, where eq. 4 writes norms: a sum of N D squares would drown a distance between images. The
optimiser of the published models is Adam of betas (0.5, 0.9), learning rate 4.5e-6 an image of the batch, for generator and critic alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.modern import modern_codebook
from latentcomp.codebook.start import SmallUniform
from latentcomp.energies import PerceptualEnergy
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vqgan import VQGAN
from latentcomp.learners.warm_start import WarmStart
from latentcomp.likelihoods import Laplace, Likelihood
from latentcomp.model import LatentVariableModel
from latentcomp.nn.critic import PatchCritic, group_norm
from latentcomp.nn.grid import SiteDecoder, SiteEncoder
from latentcomp.nn.lpips import LPIPS, DropoutLPIPS
from latentcomp.nn.site_mlp import SiteMLP
from latentcomp.nn.unet import Decoder, Encoder, Ladder
from latentcomp.phases.behaviour import Exploring
from latentcomp.phases.critic import AdaptiveWeight, Critic, LeCAM, Ramp
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.m_step import ImportanceWeighted
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform


@dataclass(frozen=True)
class Size:
    """How large a VQGAN is; by default that of the published f16 models.

    Attributes:
        image: (C, H, W).
        codes: K.
        width: D.
        features: of the maps between networks and codebook.
        channels: of the first level.
        multipliers: of the levels' channels; m levels halve the image m - 1 times.
        blocks: residual blocks a level.
        critic: channels behind the critic's first convolution.
        critic_layers: its convolutions of stride 2.
        group: the fewest channels in a group of the networks' norms; 1 for the published 32 groups at any width. Below 128 channels give 4, which at 128 and
            more is the published network: with 32 groups, those of narrow networks hold one channel, whose mean they take away.
    """

    image: Sequence[int] = (3, 256, 256)
    codes: int = 1024
    width: int = 256
    features: int = 256
    channels: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    blocks: int = 2
    critic: int = 64
    critic_layers: int = 3
    group: int = 1

    @property
    def stride(self) -> int:
        """f, pixels a side for one code."""
        return Ladder(multipliers=self.multipliers, attention=()).stride

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), the rows and columns of codes.

        Raises:
            ValueError: f does not divide the image.
        """
        _, height, width = self.image
        if height % self.stride or width % self.stride:
            raise ValueError(f"{len(self.multipliers)} levels make a stride of {self.stride}, which must divide the image; got {height} x {width}")
        return height // self.stride, width // self.stride

    @property
    def entries(self) -> int:
        """N D: of h."""
        return math.prod(self.grid) * self.width


class Preset(NamedTuple):
    """A model and its learner."""

    model: LatentVariableModel
    learner: VQGAN


def paper(size: Size | None = None, distance: nn.Module | str | Path | None = None, start: int = 10_000) -> Preset:
    """The equations as written.

    Args:
        size: of the networks; the paper's table has one block a level, whatever ``size.blocks`` says.
        distance: LPIPS, or the file of its VGG-16's weights; None lets torchvision download them.
        start: the first step at which lambda is not 0, "at least one epoch".

    Raises:
        TypeError: an LPIPS of the other kind, with dropout or without.
        ValueError: the stride does not divide the image.
    """
    size = size or Size()
    ladder = Ladder(size.channels, size.multipliers, blocks=1, attention=(), extra=0, group=size.group)
    critic = Critic(PatchCritic(size.image[0], size.critic, size.critic_layers), "min_max", AdaptiveWeight(1.0, 1e-6, math.inf), Ramp(start))
    return _preset(size, ladder, PerceptualEnergy(_distance(distance, LPIPS), 1.0, pixel_weight=0.0), (1.0, 1.0), critic)


def taming(size: Size | None = None, distance: nn.Module | str | Path | None = None, start: int = 10_000) -> Preset:
    """What the published code computes, oddities and all.

    Args:
        size: of the networks.
        distance: as in :func:`paper`, with the dropout of the published code.
        start: ``disc_start``.
    """
    size = size or Size()
    ladder = Ladder(size.channels, size.multipliers, size.blocks, attention=(len(size.multipliers) - 1,), group=size.group)
    critic = Critic(PatchCritic(size.image[0], size.critic, size.critic_layers), "hinge", AdaptiveWeight(), Ramp(start), renewed=True)
    return _preset(size, ladder, PerceptualEnergy(_distance(distance, DropoutLPIPS), 1.0), (0.25, 1.0), critic)


def modern(size: Size | None = None, distance: nn.Module | str | Path | None = None, start: int = 10_000, restart: float = 0.02) -> Preset:
    """The defects mended.

    Args:
        size: of the networks; by default the published one, with codes of eight dimensions, since on the sphere they want few.
        distance: as in :func:`paper`.
        start: the first step at which the critic counts; it learns from three quarters of it on, and counts in full from one and a half times it on.
        restart: codes that are used less than this share of the even use, in running mean, move onto encoder outputs.
    """
    size = size or Size(width=8)
    ladder = Ladder(size.channels, size.multipliers, size.blocks, attention=(), extra=0, group=size.group)
    network = PatchCritic(size.image[0], size.critic, size.critic_layers, group_norm)
    critic = Critic(network, "hinge", AdaptiveWeight(), Ramp(start, start // 2, start // 4), LeCAM())
    codebook = modern_codebook(size.codes, size.width, restart)
    return _preset(size, ladder, PerceptualEnergy(_distance(distance, LPIPS), 1.0), (1.0, 0.25), critic, codebook)


def plain(size: Size | None = None, scale: float = 0.1, restart: float = 0.02) -> Preset:
    """No critic, no perceptual distance, no weights from elsewhere: running means under a Laplace likelihood (an L1 loss).

    Args:
        size: of the networks.
        scale: of the Laplace likelihood, in units of pixels in [-1, 1]: it weighs reconstruction against commitment.
        restart: as in :func:`modern`.
    """
    size = size or Size()
    codebook = EMACodebook(size.codes, size.width, restart)
    for vectors in (codebook.weight, codebook.sums):
        vectors.mul_(0.1)  # near the origin, where an encoder's first outputs tell codes apart by direction; far from it one code is nearest to all
    ladder = Ladder(size.channels, size.multipliers, size.blocks, attention=(), group=size.group)
    model, encoder = backbone(size, ladder, Laplace(scale), codebook)
    return Preset(model, VQGAN(StraightThrough(NearestCode(encoder))))


def gflownet_em(size: Size | None = None, likelihood: Likelihood | None = None, critic: Critic | None = None, warm: int = 1000) -> Preset:
    """The same model under GFlowNet-EM: a policy that reads the image site by site, and the codes before.

    Args:
        size: of the networks.
        likelihood: ``Laplace`` of a learned scale by default; or an energy at a temperature, whose generalised posterior is learned, without a sleep phase.
        critic: of images decoded from codes of the posterior, or None.
        warm: steps of vector quantisation before, whose codes the policy learns meanwhile (:class:`~latentcomp.learners.warm_start.WarmStart`).
    """
    size, likelihood = size or Size(), likelihood or Laplace(0.1, learned=True)
    ladder = Ladder(size.channels, size.multipliers, size.blocks, attention=(), extra=0, group=size.group)
    model, _ = backbone(size, ladder, likelihood, Codebook(size.codes, size.width, restart=0.002, start=SmallUniform()))
    reader = SiteEncoder(Encoder(size.image[0], size.features, ladder), size.features, size.features)
    weight = _weight(size, likelihood)
    quantiser = StraightThrough(NearestCode(nn.Sequential(reader, nn.Linear(size.features, size.width))), weight, 0.25 * weight)
    policy = SiteMLP(model.cardinalities, size.features)
    sleep = Sleep() if likelihood.normalised else None
    em = GFlowNetEM(Autoregressive(reader, policy), LogVariance(), Exploring(3, 0.02), m_step=ImportanceWeighted(3), sleep=sleep)
    return Preset(model, VQGAN(WarmStart(quantiser, em, warm) if warm else em, critic))


def _weight(size: Size, likelihood: Likelihood) -> float:
    """Of the warm start's sums over the entries of h: one beside a sum over pixels in nats; beside E / T, where E is a mean, that of a mean over T."""
    return 1 / (size.entries * likelihood.temperature) if isinstance(likelihood, PerceptualEnergy) else 1.0


def backbone(size: Size, ladder: Ladder, likelihood: Likelihood, codebook: Geometry | None = None) -> tuple[LatentVariableModel, SiteEncoder]:
    """The model p(z) p(x|z) of a VQGAN, and an encoder for its posterior; without a codebook, the published one, which begins uniform within 1/K of 0."""
    sites = math.prod(size.grid)
    decoder = SiteDecoder(Decoder(size.features, size.image[0], ladder), size.width, size.features, size.grid)
    codebook = codebook or Codebook(size.codes, size.width, start=SmallUniform())
    encoder = SiteEncoder(Encoder(size.image[0], size.features, ladder), size.features, size.width)
    return LatentVariableModel(Uniform(sites, size.codes), codebook, decoder, likelihood), encoder


def _preset(size: Size, ladder: Ladder, energy: PerceptualEnergy, weights: tuple[float, float], critic: Critic, codebook: Geometry | None = None) -> Preset:
    model, encoder = backbone(size, ladder, energy, codebook)
    codebook_weight, commitment_weight = (weight / size.entries for weight in weights)
    return Preset(model, VQGAN(StraightThrough(NearestCode(encoder), codebook_weight, commitment_weight), critic))


def _distance(given: nn.Module | str | Path | None, kind: type[LPIPS]) -> nn.Module:
    if isinstance(given, LPIPS) and type(given) is not kind:
        raise TypeError(f"this preset's distance is a {kind.__name__}, not a {type(given).__name__}: they differ in the published dropout")
    return given if isinstance(given, nn.Module) else kind(given)
