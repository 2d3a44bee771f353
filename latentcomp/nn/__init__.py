"""Networks that know no probability."""

from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.transformer import CausalTransformer

__all__ = ["MLP", "CausalTransformer", "ImageDecoder", "ImageTrunk", "PrefixMLP", "SequenceNetwork", "SiteHead"]
