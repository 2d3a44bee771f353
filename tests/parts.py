"""One small example of every class that a published model may be made of, and what to ask of it: for tests that go through all of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentcomp.codebook import FSQ, LFQ, Codebook, EMACodebook, Euclidean, Gaussian, KMeans, ResidualVQ, SimVQ, SmallUniform, Sphere
from latentcomp.codes.masked import Decoding, uniform_share
from latentcomp.conditions import Conditioning, Coordinates, Encoded, LabelMap, Labels, Quantised, Shifted, Small, StartCode, Tokens
from latentcomp.energies import PerceptualEnergy
from latentcomp.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Laplace
from latentcomp.likelihoods import Gaussian as GaussianPixels
from latentcomp.model import LatentVariableModel
from latentcomp.nn import convolutional, unet
from latentcomp.nn.alex_lpips import AlexLPIPS
from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.critic import ActNorm, PatchCritic
from latentcomp.nn.gpt import GPT, Dropout, Size
from latentcomp.nn.grid import Ordered, OrderedDecoder, SiteDecoder, SiteEncoder
from latentcomp.nn.guided import Guided
from latentcomp.nn.lpips import LPIPS, DropoutLPIPS
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.modern import ModernBlock, ModernTransformer, Width
from latentcomp.nn.patches import PatchDecoder, PatchSites
from latentcomp.nn.pixelcnn import MaskedConv2d, PixelCNN
from latentcomp.nn.pixelsnail import CausalConv2d, Depth, Gated, Lookup, PixelSNAIL, RowsAbove
from latentcomp.nn.prefix import ConditionCodes
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.site_mlp import SiteMLP, SpreadMLP
from latentcomp.nn.transformer import Block, CausalTransformer
from latentcomp.posteriors.autoregressive import Autoregressive as AutoregressivePosterior
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.softmax_distance import SoftmaxDistance
from latentcomp.priors import Autoregressive, InOrder, Masked, Uniform
from latentcomp.taming.first_stage import FirstStage
from latentcomp.taming.transformer import Transformer
from tests.scenarios import posterior, tiny_model

LADDER = unet.Ladder(32, (1, 2), 1, (1,), group=4)
DEPTH = Depth(4, 1, 1, 3, 2)
ORDER = torch.tensor([2, 0, 3, 1])
Z = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]])
LABELS = torch.tensor([1, 0])


def noise(*shape: int) -> Tensor:
    """Uniform numbers, the same at every call."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7))


def gpt() -> GPT:
    """For four sites, three codes, two labels behind them, and a start code behind those."""
    return GPT((3,) * 4, Size(6, 6, 8, 1, 2), Dropout(0.1), start=5)


def first_stage() -> FirstStage:
    """As a published one is put together, for 8x8 images: four sites of three codes."""
    ladder = unet.Ladder(32, (1, 1, 2), 1, ())
    decoder, encoder = SiteDecoder(unet.Decoder(4, 1, ladder), 2, 4, (2, 2)), SiteEncoder(unet.Encoder(1, 4, ladder), 4, 2)
    model = LatentVariableModel(Uniform(4, 3), Codebook(3, 2), decoder, Bernoulli())
    return FirstStage(model, NearestCode(encoder), PatchCritic(1, 4, 1, ActNorm))


def transformer() -> Transformer:
    """Its transformer, which writes two rows of four in an order of its own, for a label."""
    condition, order = Conditioning(Shifted(Labels(2), 3)), Ordered(torch.arange(8).flip(0))
    return Transformer(first_stage(), GPT((3,) * 8, Size(6, 9, 8, 1, 2), start=5), condition, (2, 4), order)


def codes(prior: Any, c: Tensor | None = None) -> Tensor:
    """log p(z|c) of some codes."""
    return prior(c).log_prob(Z[:, : len(prior.cardinalities)])


def chosen(codebook: Any) -> Tensor:
    """Vectors, and which of them are nearest."""
    z = codebook.nearest(noise(3, 2, codebook.width) * 4 - 2)
    return torch.cat([codebook(z).flatten(), z.flatten()])


def pixels(channels: int, *x: int) -> Callable[[Any], Tensor]:
    """log p(x) of an image of whole numbers, or of one in [0, 1], under the decoder's output."""
    image = torch.tensor(x, dtype=torch.float32).view(1, 1, 2, 2)
    return lambda likelihood: likelihood(noise(1, channels, 2, 2)).log_prob(image)


def table(q: Any) -> Tensor:
    """The posterior of some images under a model of their own."""
    return q(tiny_model().float(), noise(3, 1, 2, 3).round()).table()


# class: how to make one, and what to ask of it (None: its arguments and state are all there is to compare)
PARTS: dict[type, tuple[Callable[[], Any], Callable[[Any], Tensor] | None]] = {
    LatentVariableModel: (lambda: tiny_model(learned_prior=True).float(), lambda m: m.log_joint(noise(2, 1, 2, 3).round(), Z[:, :2])),
    Uniform: (lambda: Uniform(3, (2, 3, 2)), None),
    Autoregressive: (lambda: Autoregressive(gpt(), Conditioning(Shifted(Labels(2), 3))), lambda p: codes(p, LABELS)),
    InOrder: (lambda: InOrder(Autoregressive(gpt()), ORDER), codes),
    Masked: (lambda: Masked(MaskedTransformer((3,) * 4, 8, 1, 2, (2, 1)), Conditioning(Labels(2)), Decoding(2, schedule=uniform_share)), None),
    Codebook: (lambda: Codebook(3, 2, 0.5, SmallUniform(), Sphere()), chosen),
    EMACodebook: (lambda: EMACodebook(3, 2, 0.5, 0.9, KMeans(2)), chosen),
    FSQ: (lambda: FSQ((3, 5)), chosen),
    LFQ: (lambda: LFQ(4), chosen),
    SimVQ: (lambda: SimVQ(3, 2), chosen),
    ResidualVQ: (lambda: ResidualVQ([Codebook(3, 2), Codebook(3, 2)]), chosen),
    Gaussian: (Gaussian, None),
    SmallUniform: (SmallUniform, None),
    KMeans: (lambda: KMeans(3), lambda start: torch.tensor(start.iterations)),
    Euclidean: (Euclidean, None),
    Sphere: (Sphere, lambda space: space(noise(2, 3))),
    Bernoulli: (Bernoulli, pixels(1, 0, 1, 1, 0)),
    GaussianPixels: (lambda: GaussianPixels(0.5, learned=True), pixels(1, 0, 1, 1, 0)),
    Laplace: (lambda: Laplace(0.25), pixels(1, 0, 1, 1, 0)),
    DiscretisedLogistic: (lambda: DiscretisedLogistic(16), pixels(2, 0, 1, 1, 0)),
    Categorical: (lambda: Categorical(3), pixels(3, 0, 1, 2, 2)),
    PerceptualEnergy: (lambda: PerceptualEnergy(None, 0.5, 1.0, 2.0), pixels(1, 0, 1, 1, 0)),
    NearestCode: (lambda: posterior("nearest_code").float(), table),
    Factorised: (lambda: posterior("factorised").float(), table),
    SoftmaxDistance: (lambda: posterior("softmax_distance").float(), table),
    AutoregressivePosterior: (lambda: posterior("transformer").float(), table),
    Exact: (Exact, table),
    Mode: (lambda: Mode(posterior("factorised").float()), lambda q: q(tiny_model().float(), noise(3, 1, 2, 3).round()).mode),
    Labels: (lambda: Labels(3), lambda c: c.encode(LABELS)),
    Tokens: (lambda: Tokens(4), lambda c: c.encode(Z)),
    StartCode: (lambda: StartCode(2), lambda c: c.encode(LABELS)),
    Coordinates: (lambda: Coordinates(8, 2), lambda c: c.encode(noise(2, 1, 4, 4))),
    Encoded: (lambda: Encoded(tiny_model().float(), posterior("nearest_code").float()), lambda c: c.encode(noise(2, 1, 2, 3).round())),
    Quantised: (lambda: Quantised(SiteEncoder(unet.Encoder(1, 4, LADDER), 4, 2), Codebook(3, 2)), lambda c: c.encode(noise(2, 1, 8, 8))),
    LabelMap: (lambda: LabelMap(3, 2), lambda c: c.encode((3 * noise(2, 1, 4, 4)).long())),
    Small: (lambda: Small(Coordinates(8, 1), 2), lambda c: c.encode(noise(2, 1, 4, 4))),
    Shifted: (lambda: Shifted(Tokens(4), 3), lambda c: c.encode(Z)),
    Conditioning: (lambda: Conditioning(Coordinates(8, 1), 2), lambda c: c(noise(2, 1, 4, 4))),
    FirstStage: (first_stage, lambda stage: stage.encode(noise(2, 1, 8, 8))),
    Transformer: (transformer, lambda m: torch.cat([m.logits(Z.repeat(1, 2), LABELS[:, None] + 3).flatten(), m.decode(Z.repeat(1, 2)).flatten()])),
    MLP: (lambda: MLP(3, 4, 2), lambda m: m(noise(2, 3))),
    ImageTrunk: (lambda: ImageTrunk((1, 2, 3), (5, 4)), lambda m: m(noise(2, 1, 2, 3))),
    SiteHead: (lambda: SiteHead(5, 2, 3), lambda m: m(noise(2, 5))),
    ImageDecoder: (lambda: ImageDecoder(2, 3, (4,), (1, 2, 3)), lambda m: m(noise(2, 2, 3))),
    PatchSites: (lambda: PatchSites(8, 3), lambda m: m(noise(2, 1, 8, 8))),
    PatchDecoder: (lambda: PatchDecoder(8, 3, 1, (2, 3)), lambda m: m(noise(2, 6, 3))),
    CausalConv2d: (lambda: CausalConv2d(2, 3, 3), lambda m: m(noise(1, 2, 4, 4))),
    RowsAbove: (lambda: RowsAbove(2, 3, 2), lambda m: m(noise(1, 2, 4, 4))),
    Gated: (lambda: Gated(DEPTH, 5), lambda m: m(noise(2, 4, 3, 3), noise(2, 5))),
    Lookup: (lambda: Lookup(DEPTH), lambda m: m(noise(2, 4, 3, 3), noise(2, 4, 3, 3), noise(2, 3, 3))),
    PixelSNAIL: (lambda: PixelSNAIL((3,) * 4, (2, 2), DEPTH, 5), lambda m: m(Z, noise(2, 5))),
    MaskedConv2d: (lambda: MaskedConv2d(2, 3, 3, True), lambda m: m(noise(1, 2, 4, 4))),
    PixelCNN: (lambda: PixelCNN((3,) * 4, 4, 1, 3, (2, 2)), lambda m: m(Z)),
    GPT: (lambda: gpt().of_length(2), lambda m: m(Z[:, :2], LABELS[:, None] + 3)),
    Guided: (lambda: Guided(gpt(), 1.5), lambda m: m(Z, LABELS[:, None] + 3)),
    ModernBlock: (lambda: ModernBlock(Width(8, 1, 2)), lambda m: m(noise(2, 3, 8), noise(2, 3, 4))),
    ModernTransformer: (lambda: ModernTransformer((3,) * 4, Width(8, 1, 2), (2, 1), (2, 2), ORDER), lambda m: m(Z, LABELS[:, None])),
    MaskedTransformer: (lambda: MaskedTransformer((3,) * 4, 8, 1, 2, (2, 1)), lambda m: m(Z, Z > 1, LABELS[:, None])),
    Block: (lambda: Block(8, 2, 0.1, 0.1), lambda m: m(noise(2, 3, 8))),
    CausalTransformer: (lambda: CausalTransformer((3, 2), 5, 8, 1, 2), lambda m: m(LABELS[:, None].expand(-1, 2), noise(2, 5))),
    PrefixMLP: (lambda: PrefixMLP((3, 2), 5, 8), lambda m: m(LABELS[:, None].expand(-1, 2), noise(2, 5))),
    SiteMLP: (lambda: SiteMLP((3, 2), 4, 8), lambda m: m(LABELS[:, None].expand(-1, 2), noise(2, 8))),
    SpreadMLP: (lambda: SpreadMLP((3, 2), 5, 8), lambda m: m(LABELS[:, None].expand(-1, 2), noise(2, 5))),
    ConditionCodes: (lambda: ConditionCodes(3, 2, 8), lambda m: m(Z[:, :2])),
    Ordered: (lambda: Ordered(ORDER), lambda m: m(Z)),
    OrderedDecoder: (lambda: OrderedDecoder(ImageDecoder(4, 2, (4,), (1, 2, 2)), Ordered(ORDER)), lambda m: m(noise(2, 4, 2))),
    SiteEncoder: (lambda: SiteEncoder(unet.Encoder(1, 4, LADDER), 4, 3), lambda m: m(noise(2, 1, 8, 8))),
    SiteDecoder: (lambda: SiteDecoder(unet.Decoder(4, 1, LADDER), 3, 4, (4, 4)).of_grid((2, 4)), lambda m: m(noise(2, 8, 3))),
    unet.Norm: (lambda: unet.Norm(32, 4), lambda m: m(noise(2, 32, 2, 2))),
    unet.Residual: (lambda: unet.Residual(32, 64, 0.1), lambda m: m(noise(2, 32, 2, 2))),
    unet.Attention: (lambda: unet.Attention(32, 2), lambda m: m(noise(2, 32, 2, 2))),
    unet.Downsample: (lambda: unet.Downsample(4, False), lambda m: m(noise(2, 4, 2, 2))),
    unet.Upsample: (lambda: unet.Upsample(4), lambda m: m(noise(2, 4, 2, 2))),
    unet.Level: (lambda: unet.Level(32, 64, 1, True, LADDER, unet.Downsample(64)), lambda m: m(noise(2, 32, 4, 4))),
    unet.Encoder: (lambda: unet.Encoder(1, 3, LADDER), lambda m: m(noise(2, 1, 8, 8))),
    unet.Decoder: (lambda: unet.Decoder(3, 1, LADDER), lambda m: m(noise(2, 3, 4, 4))),
    convolutional.Residual: (lambda: convolutional.Residual(4, nn.BatchNorm2d), lambda m: m(noise(2, 4, 4, 4))),
    convolutional.ConvEncoder: (lambda: convolutional.ConvEncoder(8, SharedBatchNorm2d), lambda m: m(noise(2, 1, 28, 28))),
    convolutional.ConvTrunk: (lambda: convolutional.ConvTrunk(8, 5), lambda m: m(noise(2, 1, 28, 28))),
    convolutional.ConvSites: (lambda: convolutional.ConvSites(8, 3), lambda m: m(noise(2, 1, 28, 28))),
    convolutional.ConvDecoder: (lambda: convolutional.ConvDecoder(8, 3), lambda m: m(noise(2, 16, 3))),
    SharedBatchNorm2d: (lambda: SharedBatchNorm2d(3, eps=0.1, affine=False), lambda m: m(noise(2, 3, 4, 4))),
    ActNorm: (lambda: ActNorm(3), lambda m: m(noise(2, 3, 4, 4))),
    PatchCritic: (lambda: PatchCritic(1, 4, 1, SharedBatchNorm2d), lambda m: m(noise(2, 1, 8, 8))),
    AlexLPIPS: (lambda: AlexLPIPS(False), lambda m: m(noise(1, 3, 32, 32), noise(1, 3, 32, 32).flip(-1))),
    LPIPS: (lambda: LPIPS(False), lambda m: m(noise(1, 3, 16, 16), noise(1, 3, 16, 16).flip(-1))),
    DropoutLPIPS: (lambda: DropoutLPIPS(False), lambda m: m(noise(1, 3, 16, 16), noise(1, 3, 16, 16).flip(-1))),
}
LARGE = {LPIPS, DropoutLPIPS}  # VGG-16: 59 MB each
