"""Multilayer perceptrons from images and to images: the backbone for small data."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described


class MLP(Described, nn.Sequential):
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, the hidden layers and the output.
    """

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(widths)):
            layers += [nn.Linear(a, b)] if i == 0 else [nn.ReLU(), nn.Linear(a, b)]
        super().__init__(*layers)


class ImageTrunk(Described, nn.Module):
    """Images to features ``(B, H)``, with a ReLU at the end: what posteriors share below their heads.

    Args:
        image_shape: (C, H, W).
        hidden: widths of the layers; the last is that of the features.
    """

    def __init__(self, image_shape: Sequence[int], hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), MLP(math.prod(image_shape), *hidden), nn.ReLU())

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """The features."""
        return self.layers(x)


class SiteHead(Described, nn.Module):
    """Features to one vector for each site: logits ``(B, N, K)``, or points of the codebook's space ``(B, N, D)``.

    Args:
        features: the width of the features.
        sites: N.
        width: K or D.
    """

    def __init__(self, features: int, sites: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, sites * width)
        self.shape = (sites, width)

    def forward(self, features: Float[Tensor, "B F"]) -> Float[Tensor, "B N W"]:
        """One row for each site."""
        return self.linear(features).unflatten(-1, self.shape)


class ImageDecoder(Described, nn.Module):
    """Embeddings ``(B, N, D)`` to the parameters of a likelihood ``(B, C, H, W)``.

    Args:
        sites: N.
        width: D.
        hidden: widths of the hidden layers.
        image_shape: (C', H, W).
    """

    def __init__(self, sites: int, width: int, hidden: Sequence[int], image_shape: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), MLP(sites * width, *hidden, math.prod(image_shape)), nn.Unflatten(1, tuple(image_shape)))

    @property
    def last_weight(self) -> Tensor:
        """Of the layer that makes the image: where VQGAN balances its gradients."""
        return cast(Tensor, cast(MLP, self.layers[1])[-1].weight)

    def forward(self, e: Float[Tensor, "B N D"]) -> Float[Tensor, "B C H W"]:
        """The parameters."""
        return self.layers(e)
