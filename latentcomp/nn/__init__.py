"""Networks that know no probability."""

from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.convolutional import ConvDecoder, ConvEncoder, ConvSites, ConvTrunk
from latentcomp.nn.critic import ActNorm, PatchCritic, group_norm
from latentcomp.nn.gpt import GPT
from latentcomp.nn.grid import Ordered, SiteDecoder, SiteEncoder
from latentcomp.nn.guided import Guided
from latentcomp.nn.lpips import LPIPS, DropoutLPIPS
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.modern import ModernTransformer
from latentcomp.nn.pixelcnn import PixelCNN
from latentcomp.nn.pixelsnail import PixelSNAIL
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.site_mlp import SiteMLP, SpreadMLP
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.nn.unet import Decoder, Encoder, Ladder

__all__ = [
    "GPT", "LPIPS", "MLP", "ActNorm", "CausalTransformer", "ConvDecoder", "ConvEncoder", "ConvSites", "ConvTrunk", "Decoder", "DropoutLPIPS", "Encoder",
    "Guided", "ImageDecoder", "ImageTrunk", "Ladder", "MaskedTransformer", "ModernTransformer", "Ordered", "PatchCritic", "PixelCNN", "PixelSNAIL",
    "PrefixMLP", "SequenceNetwork", "SharedBatchNorm2d", "SiteDecoder", "SiteEncoder", "SiteHead", "SiteMLP", "SpreadMLP", "group_norm",
]  # fmt: skip
