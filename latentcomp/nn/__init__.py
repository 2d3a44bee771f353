"""Networks that know no probability."""

from latentcomp.nn.convolutional import ConvDecoder, ConvEncoder, ConvSites, ConvTrunk
from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.pixelcnn import PixelCNN
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.transformer import CausalTransformer

__all__ = [
    "MLP", "CausalTransformer", "ConvDecoder", "ConvEncoder", "ConvSites", "ConvTrunk", "ImageDecoder", "ImageTrunk", "PixelCNN", "PrefixMLP",
    "SequenceNetwork", "SiteHead",
]  # fmt: skip
