"""Convolutional networks between 28x28 images and 4x4 grids of codes: the backbone of the discrete VAE on MNIST.

Layer for layer those of Hu et al. (2023, appendix D), who took them from a public VQ-VAE: strided convolutions down to 4x4 with two residual blocks there,
and the mirror image up again. Convolutions carry no bias but the last. All work in ``channels_last``, which on CPUs with wide vectors makes the decoder about
three times as fast as the default layout.
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from latentcomp.described import Described

Norm = Callable[[int], nn.Module]  # makes a normalisation of so many channels, such as torch.nn.BatchNorm2d

GRID = (4, 4)


def convolution(a: int, b: int, kernel: int, stride: int = 1, norm: Norm | None = None) -> list[nn.Module]:
    """A convolution without bias, its normalisation behind it where there is one."""
    layer = nn.Conv2d(a, b, kernel, stride, 0 if kernel == 1 else 1, bias=False)
    return [layer] if norm is None else [layer, norm(b)]


def transposed(channels: int, kernel: int, norm: Norm | None = None) -> list[nn.Module]:
    """A transposed convolution of stride 2 without bias, its normalisation behind it, and a ReLU."""
    layer = nn.ConvTranspose2d(channels, channels, kernel, 2, 1, bias=False)
    return [layer, *([] if norm is None else [norm(channels)]), nn.ReLU(inplace=True)]


class Residual(Described, nn.Module):
    """r + Conv1x1(ReLU(Conv3x3(r))) with r = ReLU(x).

    The published block reads x + Conv1x1(ReLU(Conv3x3(ReLU(x)))), but its first ReLU works in place, so that what is added is ReLU(x); so it is here.

    Args:
        channels: C.
        norm: makes the normalisation behind each convolution; None for none.
    """

    def __init__(self, channels: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.block = nn.Sequential(*convolution(channels, channels, 3, norm=norm), nn.ReLU(inplace=True), *convolution(channels, channels, 1, norm=norm))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The block's output on top of its rectified input."""
        x = x.relu()
        return x + self.block(x)


class ConvEncoder(Described, nn.Module):
    """Images ``(B, 1, 28, 28)`` to features ``(B, C, 4, 4)``: 739,328 parameters at C = 128.

    Args:
        channels: C.
        norm: makes the normalisation behind each convolution; None for none.
    """

    def __init__(self, channels: int = 128, norm: Norm | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(1, channels, 4, 2, norm),
            nn.ReLU(inplace=True),
            *convolution(channels, channels, 4, 2, norm),
            *convolution(channels, channels, 3, 2, norm),
            Residual(channels, norm),
            Residual(channels, norm),
        ).to(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C h w"]:
        """The features."""
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class ConvTrunk(Described, nn.Module):
    """Images to features ``(B, F)``: the encoder, flattened, and one linear layer.

    Args:
        channels: C.
        features: F.
        norm: makes the normalisation behind each convolution; None for none.
    """

    def __init__(self, channels: int = 128, features: int = 64, norm: Norm | None = None) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, norm)
        self.linear = nn.Linear(channels * math.prod(GRID), features)

    def forward(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B F"]:
        """The features."""
        return self.linear(self.encoder(x).flatten(1))


class ConvSites(Described, nn.Module):
    """Images to one vector for each of the 16 sites, ``(B, 16, W)``, row by row: the encoder and a 1x1 convolution.

    Args:
        channels: C.
        width: W: the codebook's dimension D for vector quantisation, K for logits.
        norm: makes the normalisation behind each convolution; None for none.
    """

    def __init__(self, channels: int = 128, width: int = 1, norm: Norm | None = None) -> None:
        super().__init__()
        self.encoder = ConvEncoder(channels, norm)
        self.head = nn.Conv2d(channels, width, 1)

    def forward(self, x: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B N F"]:
        """One row for each site."""
        return rearrange(self.head(self.encoder(x)), "b d h w -> b (h w) d")


class ConvDecoder(Described, nn.Module):
    """Embeddings ``(B, 16, D)``, sites row by row, to logits ``(B, 1, 28, 28)``: 999,681 parameters at C = 128 and D = 1.

    Args:
        channels: C.
        width: D.
        norm: makes the normalisation behind each convolution; None for none.
        grid: the rows and columns of sites.
    """

    def __init__(self, channels: int = 128, width: int = 1, norm: Norm | None = None, grid: Sequence[int] = GRID) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.layers = nn.Sequential(
            *convolution(width, channels, 1, norm=norm),
            Residual(channels, norm),
            Residual(channels, norm),
            *transposed(channels, 3, norm),
            *transposed(channels, 4, norm),
            *transposed(channels, 4, norm),
            nn.Conv2d(channels, 1, 1),
        ).to(memory_format=torch.channels_last)

    @property
    def last_weight(self) -> Tensor:
        """Of the layer that makes the image: where VQGAN balances its gradients."""
        return cast(Tensor, self.layers[-1].weight)

    def forward(self, e: Float[Tensor, "B N D"]) -> Float[Tensor, "B 1 H W"]:
        """The logits."""
        grid = rearrange(e, "b (h w) d -> b d h w", h=self.grid[0], w=self.grid[1])
        features = self.layers[:-1](grid.contiguous(memory_format=torch.channels_last))
        # the last convolution, 1x1 to one channel, is a linear map of each pixel's features, which lie side by side: faster than torch's convolution
        return linear(features.permute(0, 2, 3, 1), self.last_weight.flatten(1), cast(nn.Conv2d, self.layers[-1]).bias).permute(0, 3, 1, 2)
