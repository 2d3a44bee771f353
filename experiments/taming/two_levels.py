"""Two grids of codes, a coarse one above a fine one, in one sequence (after van den Oord et al.'s VQ-VAE-2: Razavi et al., 2019).

The encoder reads a picture down to the fine grid and, from the same features, on to the coarse one of half its sides. The decoder enlarges the coarse
embeddings, joins them to the fine ones and makes the picture from both. The N codes are those of the coarse grid, row by row, then those of the fine one, out
of one codebook; VQ-VAE-2 has a codebook for each grid, and lets its fine codes see the quantised coarse ones.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from experiments.taming.vqgan import Flat, Networks
from latentcomp.nn.unet import Decoder, Downsample, Encoder, Upsample
from latentcomp.taming.presets import Size


class TwoLevelEncoder(nn.Module):
    """Pictures to the vectors of both grids, ``(B, N, D)``.

    Args:
        fine: pictures to the fine grid's features ``(B, F, h, w)``.
        features: F.
        width: D.
    """

    def __init__(self, fine: Encoder, features: int, width: int) -> None:
        super().__init__()
        self.fine, self.down = fine, nn.Sequential(nn.SiLU(), Downsample(features), nn.SiLU(), nn.Conv2d(features, features, 3, padding=1))
        self.heads = nn.ModuleList(nn.Conv2d(features, width, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The coarse grid's vectors, then the fine one's."""
        fine = self.fine(x)
        maps = [head(features) for head, features in zip(self.heads, (self.down(fine), fine), strict=True)]
        return torch.cat([rearrange(part, "b d h w -> b (h w) d") for part in maps], 1)


class TwoLevelDecoder(nn.Module):
    """Embeddings of both grids to pictures.

    Args:
        decoder: features ``(B, F, h, w)`` of the fine grid to pictures.
        width: D.
        features: F.
        grid: (h, w) of the fine grid.
    """

    def __init__(self, decoder: Decoder, width: int, features: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.decoder, self.grid = decoder, tuple(grid)
        self.up = nn.Sequential(nn.Conv2d(width, features, 3, padding=1), nn.SiLU(), Upsample(features))
        self.join = nn.Conv2d(width + features, features, 1)

    @property
    def last_weight(self) -> Tensor:
        """Of the layer that makes the picture."""
        return self.decoder.last.weight

    def forward(self, e: Tensor) -> Tensor:
        """The pictures."""
        h, w = self.grid
        coarse, fine = e.split([h * w // 4, h * w], 1)
        above = self.up(rearrange(coarse, "b (h w) d -> b d h w", h=h // 2))
        return self.decoder(self.join(torch.cat([above, rearrange(fine, "b (h w) d -> b d h w", h=h)], 1)))


class TwoLevels(Flat):
    """The fine grid is the one of the size's levels; the coarse one has half its sides."""

    def __call__(self, size: Size) -> Networks:
        """Encoder and decoder.

        Raises:
            ValueError: the fine grid has odd sides.
        """
        if any(side % 2 for side in size.grid):
            raise ValueError(f"a coarse grid of half the sides needs a fine one of even sides, got {size.grid}: give the picture other sides, or fewer levels")
        channels, ladder = size.image[0], self.ladder(size)
        encoder = TwoLevelEncoder(Encoder(channels, size.features, ladder), size.features, size.width)
        decoder = TwoLevelDecoder(Decoder(size.features, channels, ladder), size.width, size.features, size.grid)
        return Networks(encoder, decoder, math.prod(size.grid) * 5 // 4)
