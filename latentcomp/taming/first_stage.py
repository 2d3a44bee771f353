"""The published first stages: VQGAN, its Gumbel variant, and the autoencoders of label maps that serve as conditions.

A first stage is p(z) p(x|z) with a uniform prior, and a posterior: the nearest code, or for the Gumbel variant a softmax over codes at each site. What the
published code calls the quantiser is here the model's codebook and the posterior.

The likelihood of an image is Laplace of scale one, whose -log is the L1 part of the published loss up to a constant; the perceptual part is an energy
without a normaliser. Label maps have one Bernoulli channel a class. The published quantiser weighs codebook and commitment loss the other way round than
its paper ("legacy"); that changes training alone, no output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn.functional import one_hot

from latentcomp.codebook.codebook import Codebook
from latentcomp.described import Described
from latentcomp.likelihoods import Bernoulli, Laplace
from latentcomp.model import LatentVariableModel
from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.critic import ActNorm, PatchCritic
from latentcomp.nn.grid import SiteDecoder, SiteEncoder
from latentcomp.nn.unet import Decoder, Encoder, Ladder
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform
from latentcomp.taming import keys
from latentcomp.taming.config import Config, TextFile, read_config
from latentcomp.taming.pickles import BinaryFile, read_state

KINDS = ("VQModel", "GumbelVQ", "VQSegmentationModel", "VQNoDiscModel")
IGNORED = r"(^|\.)(loss\.|colorize$)"  # what evaluation has no use for: LPIPS and its VGG, a projection of labels to colours


class FirstStage(Described, nn.Module):
    """An image autoencoder with codes in between, for images of any size that its strides divide.

    Args:
        model: p(z) p(x|z), for images of the size that the config calls the resolution.
        posterior: the nearest code or independent logits, on top of a :class:`~latentcomp.nn.grid.SiteEncoder`.
        critic: the patch critic that it was trained against, where the checkpoint holds one.
    """

    def __init__(self, model: LatentVariableModel, posterior: NearestCode | Factorised, critic: PatchCritic | None = None) -> None:
        super().__init__()
        self.model, self.posterior, self.critic = model, posterior, critic

    @property
    def encoder(self) -> SiteEncoder:
        """Images to one vector a site."""
        return cast(SiteEncoder, self.posterior.encoder if isinstance(self.posterior, NearestCode) else self.posterior.trunk)

    @property
    def decoder(self) -> SiteDecoder:
        """One vector a site to the likelihood's parameters."""
        return cast(SiteDecoder, self.model.decoder)

    @property
    def stride(self) -> int:
        """f: how many pixels a side share one code."""
        return self.encoder.encoder.stride

    def encode(self, x: Num[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        """The codes of each image, row by row of its H/f x W/f grid: nearest codes, or the most probable ones of the Gumbel variant.

        Args:
            x: images in [-1, 1]; or for an autoencoder of label maps, one-hot channels or the labels themselves, ``(B, 1, H, W)``.

        Raises:
            TypeError: the images are bytes or other whole numbers.
            ValueError: f does not divide the height or the width, or the number of channels is wrong.
        """
        h = self.encoder(self._images(x))
        if isinstance(self.posterior, NearestCode):
            return self.model.codebook.nearest(h)
        return self.posterior.head(h).argmax(-1)

    def _images(self, x: Tensor) -> Tensor:
        classes = self.encoder.encoder.first.in_channels
        if isinstance(self.model.likelihood, Bernoulli) and x.shape[1] == 1 < classes:
            labels = x[:, 0].long()
            if labels.min() < 0 or labels.max() >= classes:
                raise ValueError(f"labels must lie in 0..{classes - 1}; got values from {int(labels.min())} to {int(labels.max())}")
            x = one_hot(labels, classes).movedim(-1, 1)
            return x.to(self.model.codebook.vectors.dtype)
        if not x.is_floating_point():
            raise TypeError(f"images must be of a floating type in [-1, 1], got {x.dtype}: for bytes, x.float() / 127.5 - 1")
        return x

    def decode(self, codes: Int[Tensor, "B N"], shape: Sequence[int] | None = None) -> Float[Tensor, "B C H W"]:
        """The mean of p(x|z): images about [-1, 1], or probabilities of labels.

        Args:
            codes: row by row.
            shape: (h, w) of their grid; by default that of the config's resolution.

        Raises:
            TypeError: the codes are no whole numbers.
            ValueError: they do not fill the grid, or lie outside the codebook, or do not have the shape (B, N).
        """
        if codes.ndim != 2:
            raise ValueError(f"codes have shape (B, N), row by row; got {tuple(codes.shape)}: flatten a grid of them, e.g. codes.flatten(1)")
        return self.model.likelihood(self.decoder.at(self.model.codebook(codes), shape or self.decoder.grid)).mean

    def reconstruct(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Encoded and decoded again.

        Raises:
            TypeError: as :meth:`encode`.
            ValueError: as :meth:`encode`.
        """
        return self.decode(self.encode(x), (x.shape[-2] // self.stride, x.shape[-1] // self.stride))

    def forward(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The reconstruction."""
        return self.reconstruct(x)


def ladder(dd: Config) -> Ladder:
    """The widths, depths and attention that a ``ddconfig`` describes.

    Raises:
        ValueError: it lacks one, or holds something else than a number there.
    """
    multipliers = dd.wholes("ch_mult")
    attention = Ladder.levels_at(dd.whole("resolution"), dd.wholes("attn_resolutions"), len(multipliers))
    return Ladder(dd.whole("ch"), multipliers, dd.whole("num_res_blocks"), attention, dd.rate("dropout"), dd.get("resamp_with_conv", True))


def build_first_stage(config: Config, codes: int | None = None, critic: bool = False) -> FirstStage:
    """An untrained first stage as a config describes it.

    Args:
        config: the node of a VQModel or one of its kin.
        codes: K, where a remapping to the codes in use makes it smaller than the config's ``n_embed``.
        critic: whether to build the critic of its loss too.

    Raises:
        ValueError: an unknown kind, or a config that lacks something or contradicts itself.
    """
    if config.kind not in KINDS:
        raise ValueError(f"{config.kind} is no first stage that can be imported: {', '.join(KINDS)} can. A Net2NetTransformer goes to load_transformer")
    dd, width = config.section("ddconfig"), config.whole("embed_dim")
    k = config.whole("n_embed") if codes is None else codes
    if dd.get("double_z", False):
        raise ValueError("ddconfig.double_z belongs to autoencoders with a Gaussian posterior: those have no codes")
    shape, features = ladder(dd), dd.whole("z_channels")
    side = dd.whole("resolution", least=shape.stride) // shape.stride
    decoder = SiteDecoder(Decoder(features, dd.whole("out_ch"), shape), width, features, (side, side))
    likelihood = Bernoulli() if config.kind == "VQSegmentationModel" else Laplace()
    model = LatentVariableModel(Uniform(side * side, k), Codebook(k, width), decoder, likelihood)
    encoder = SiteEncoder(Encoder(dd.whole("in_channels"), features, shape), features, width)
    posterior = Factorised(encoder, nn.Linear(width, k)) if config.kind == "GumbelVQ" else NearestCode(encoder)
    return FirstStage(model, posterior, build_critic(config.node("lossconfig")) if critic else None)


def build_critic(loss: Config) -> PatchCritic:
    """The critic of a loss's config.

    Raises:
        ValueError: something else than a number where one belongs.
    """
    norm = ActNorm if loss.get("use_actnorm", False) else SharedBatchNorm2d
    return PatchCritic(loss.whole("disc_in_channels", 3), loss.whole("disc_ndf", 64), loss.whole("disc_num_layers", 3), norm)


def first_stage_from(config: Config, state: dict[str, Tensor], prefix: str = "") -> tuple[FirstStage, list[keys.Part]]:
    """A first stage of the size that a checkpoint has, and its parts to be filled from there.

    A checkpoint with a list of used codes was trained with those alone. Only their vectors are taken, under their numbers in the list; an output that lies
    nearest to an unused code gets the nearest used one, where the published code draws one at random.
    """
    used = state.pop(f"{prefix}quantize.used", None)
    if config.get("remap") is not None and used is None:
        raise ValueError(f"the config remaps codes to those in use, but the checkpoint lacks {prefix}quantize.used")
    if used is not None:
        for name in (n for n in state if n.startswith(f"{prefix}quantize.")):
            state[name] = state[name][used]
    stage = build_first_stage(config, None if used is None else len(used), _has_critic(config, state, prefix))
    return stage, parts_of(stage, prefix)


def _has_critic(config: Config, state: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether the checkpoint holds a critic and the config, whose loss is often replaced by a dummy, says of what size."""
    stored = any(name.startswith(f"{prefix}loss.discriminator.") for name in state)
    return stored and config.get("lossconfig") is not None and config.node("lossconfig").kind.endswith("WithDiscriminator")


def parts_of(stage: FirstStage, prefix: str) -> list[keys.Part]:
    """Its modules, and where their weights stand in a checkpoint."""
    parts = [keys.Part(stage.encoder, keys.ENCODER, prefix), keys.Part(stage.decoder, keys.DECODER, prefix)]
    if isinstance(stage.posterior, Factorised):
        parts += [keys.Part(stage.model.codebook, keys.GUMBEL_CODEBOOK, prefix), keys.Part(stage.posterior.head, keys.GUMBEL_HEAD, prefix)]
    else:
        parts.append(keys.Part(stage.model.codebook, keys.CODEBOOK, prefix))
    return parts + ([] if stage.critic is None else [keys.Part(stage.critic, keys.CRITIC, prefix)])


def load_vqgan(checkpoint: str | Path | BinaryFile, config: str | Path | TextFile | Mapping[str, Any]) -> FirstStage:
    """A published first stage, in evaluation mode on the CPU.

    Args:
        checkpoint: a path or an open file; read without executing anything (:func:`~latentcomp.taming.pickles.read_state`).
        config: the yaml file beside it, as a path, an open file or a dictionary.

    Raises:
        ValueError: the file is no checkpoint, or it and the config disagree; lists the weights that are missing, unexpected or of another shape.
    """
    state = read_state(checkpoint)
    stage, parts = first_stage_from(read_config(config), state)
    keys.fill(parts, state, IGNORED)
    return stage.eval()
