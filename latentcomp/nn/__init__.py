"""Networks that know no probability."""

from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.convolutional import ConvDecoder, ConvEncoder, ConvSites, ConvTrunk
from latentcomp.nn.critic import ActNorm, PatchCritic
from latentcomp.nn.gpt import GPT
from latentcomp.nn.grid import Ordered, SiteDecoder, SiteEncoder
from latentcomp.nn.lpips import LPIPS
from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.pixelcnn import PixelCNN
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.nn.unet import Decoder, Encoder, Ladder

__all__ = [
    "GPT", "LPIPS", "MLP", "ActNorm", "CausalTransformer", "ConvDecoder", "ConvEncoder", "ConvSites", "ConvTrunk", "Decoder", "Encoder", "ImageDecoder",
    "ImageTrunk", "Ladder", "Ordered", "PatchCritic", "PixelCNN", "PrefixMLP", "SequenceNetwork", "SharedBatchNorm2d", "SiteDecoder", "SiteEncoder", "SiteHead",
]  # fmt: skip
