"""Small convolutional networks between images and grids of patches of 4 x 4 pixels (f = 4): 28x28 images have 7 x 7 sites.

Light enough for large codebooks on a CPU: two strided convolutions, two residual blocks, and the mirror image up again. Any height and width that 4 divides.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described
from latentcomp.nn.convolutional import Residual

STRIDE = 4


class PatchSites(Described, nn.Module):
    """Images to one vector for each patch, ``(B, N, W)``, row by row.

    Args:
        channels: C, at the sites; half as many before.
        width: W: the codebook's dimension D for vector quantisation, K for logits.
        inputs: channels of the images.
    """

    def __init__(self, channels: int = 64, width: int = 8, inputs: int = 1) -> None:
        super().__init__()
        down = [nn.Conv2d(inputs, channels // 2, 4, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(channels // 2, channels, 4, 2, 1)]
        rest = [Residual(channels), Residual(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, width, 1)]
        self.layers = nn.Sequential(*down, *rest).to(memory_format=torch.channels_last)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N F"]:
        """One row for each patch.

        Raises:
            ValueError: 4 does not divide the height or the width.
        """
        if x.shape[-2] % STRIDE or x.shape[-1] % STRIDE:
            raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels do not fall into patches of {STRIDE} x {STRIDE}: crop or pad them")
        return rearrange(self.layers(x.contiguous(memory_format=torch.channels_last)), "b d h w -> b (h w) d")


class PatchDecoder(Described, nn.Module):
    """Embeddings ``(B, N, D)``, patches row by row, to the likelihood's parameters ``(B, C', 4 h, 4 w)``.

    Args:
        channels: C, at the sites; half as many after.
        width: D.
        outputs: C'.
        grid: (h, w), the rows and columns of patches.
    """

    def __init__(self, channels: int = 64, width: int = 8, outputs: int = 1, grid: Sequence[int] = (7, 7)) -> None:
        super().__init__()
        self.grid = tuple(grid)
        rest = [nn.Conv2d(width, channels, 1), Residual(channels), Residual(channels), nn.ReLU(inplace=True)]
        up = [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1), nn.ReLU(inplace=True), nn.ConvTranspose2d(channels // 2, outputs, 4, 2, 1)]
        self.layers = nn.Sequential(*rest, *up).to(memory_format=torch.channels_last)

    def forward(self, e: Float[Tensor, "B N D"]) -> Float[Tensor, "B C H W"]:
        """The parameters."""
        grid = rearrange(e, "b (h w) d -> b d h w", h=self.grid[0], w=self.grid[1])
        return self.layers(grid.contiguous(memory_format=torch.channels_last))
