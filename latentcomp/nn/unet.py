"""The encoder and the decoder of VQGAN: the two halves of the U-Net of DDPM (Ho et al., 2020), without its skips.

A ladder of levels, each at half the resolution of the one before: residual blocks of group norm, swish and 3x3 convolutions, with one head of
self-attention behind every block of chosen levels (Esser et al., 2021, table 7), and at the bottom a residual block, an attention and a residual block.
The published networks hold more attention than that table says: behind each block of a level, and in the middle too.

Nothing here depends on the size of the image: any height and width that the halvings divide will do. Nor on the memory format: a network moved to
``torch.channels_last``, which accelerators prefer, keeps its maps there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, group_norm, nn
from torch.nn.functional import avg_pool2d, interpolate, pad, scaled_dot_product_attention, silu

from latentcomp.described import Described

GROUPS = 32


@dataclass(frozen=True)
class Ladder:
    """What both halves agree on.

    Attributes:
        channels: the width at the first level, the finest.
        multipliers: the width of each level, in units of ``channels``; m levels halve the image m - 1 times.
        blocks: residual blocks a level of the encoder.
        attention: the levels, counted from 0 at full resolution, with attention behind each block.
        dropout: of the residual blocks.
        convolved: whether a 3x3 convolution accompanies each change of resolution.
        extra: how many blocks a level the decoder has more; 1 in the published code, 0 in the paper's table.
        group: the fewest channels in a group of the norms; at 1 they have the published 32 groups at any width. The published networks' narrowest groups, at
            128 channels, have 4.

    Raises:
        ValueError: there is no level, or attention is to stand at one that does not exist.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention: Sequence[int] = (4,)
    dropout: float = 0.0
    convolved: bool = True
    extra: int = 1
    group: int = 1

    def __post_init__(self) -> None:
        levels = len(self.multipliers)
        if not levels:
            raise ValueError(f"a ladder has at least one level, got multipliers={self.multipliers}: pass (1,) for one that halves nothing")
        wrong = [level for level in self.attention if not 0 <= level < levels]
        if wrong:
            raise ValueError(
                f"attention at level {wrong[0]}, but {levels} multipliers make the levels 0..{levels - 1}: name one of these, or pass attention=() for none "
                "outside the middle"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of channels at each level."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def stride(self) -> int:
        """f: how many pixels a side share one site of the map."""
        return 2 ** (len(self.multipliers) - 1)

    @staticmethod
    def levels_at(resolution: int, sides: Sequence[int], levels: int) -> tuple[int, ...]:
        """The levels, out of so many, at which an image of ``resolution`` pixels a side has shrunk to one of the given sides."""
        return tuple(level for level in range(levels) if resolution // 2**level in sides)


class Norm(Described, nn.GroupNorm):
    """Group norm of 32 groups, or of as many as have enough channels each.

    A group of one channel takes its mean away, and with it all that an even map says: behind the decoder's last norm, how bright or how red a smooth square is.
    Where the map is a single site, such a group holds one number, of which nothing but the bias is left.

    Args:
        channels: C.
        group: the fewest channels in a group; 1 for 32 groups whatever C, as published.

    Raises:
        ValueError: the number of groups does not divide the channels, or a group would have no channel.
    """

    def __init__(self, channels: int, group: int = 1) -> None:
        if group < 1:
            raise ValueError(f"a group of a norm has at least one channel, got group={group}: pass 1 for the published {GROUPS} groups")
        groups = GROUPS if group == 1 else min(GROUPS, max(1, channels // group))
        if channels % groups:
            raise ValueError(f"the norms have {groups} groups, so {groups} must divide the number of channels; got {channels}")
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The normalised map."""
        # not by way of torch's module, which refuses a single row of groups of one number, and takes several; a row must not depend on its company
        # torch's kernel for channels_last on CPUs takes the variance as a difference of two large numbers: fifty times the error, which gradients multiply
        return group_norm(x.contiguous() if x.device.type == "cpu" else x, self.num_groups, self.weight, self.bias, self.eps)


class Residual(Described, nn.Module):
    """x + Conv(Dropout(swish(Norm(Conv(swish(Norm(x))))))), with a 1x1 convolution on the shortcut where the number of channels changes.

    Args:
        inputs: channels in.
        outputs: channels out.
        dropout: before the second convolution.
        group: the fewest channels in a group of the norms.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float = 0.0, group: int = 1) -> None:
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs, group), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = Norm(outputs, group), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """The block's output on top of its input."""
        h = self.conv1(silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(self.dropout(silu(self.norm2(h))))


class Attention(Described, nn.Module):
    """One head of self-attention between all sites of a map, on a residual branch.

    Args:
        channels: C.
        group: the fewest channels in a group of the norm.
    """

    def __init__(self, channels: int, group: int = 1) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = Norm(channels, group), nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """What each site reads from all others, added to it."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (three c) h w -> three b 1 (h w) c", three=3)
        attended = scaled_dot_product_attention(q, k, v)
        return x + self.out(rearrange(attended, "b 1 (h w) c -> b c h w", h=x.shape[-2]))


class Downsample(Described, nn.Module):
    """Half the height and width: a 3x3 convolution of stride 2 that pads on the right and below alone, or the mean of each 2x2 square.

    Args:
        channels: C.
        convolved: whether with a convolution.
    """

    def __init__(self, channels: int, convolved: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2) if convolved else None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The smaller map."""
        return avg_pool2d(x, 2) if self.conv is None else self.conv(pad(x, (0, 1, 0, 1)))


class Upsample(Described, nn.Module):
    """Twice the height and width: each site repeated, then smoothed by a 3x3 convolution.

    Args:
        channels: C.
        convolved: whether with the convolution.
    """

    def __init__(self, channels: int, convolved: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if convolved else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """The larger map."""
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(Described, nn.Module):
    """Residual blocks at one resolution, attention behind each of them or none, and the step to the next resolution.

    Args:
        inputs: channels in.
        outputs: channels out.
        blocks: how many residual blocks.
        attends: whether attention follows each block.
        ladder: what all blocks share, dropout and groups.
        resample: the step to the next level; None at the last.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int, attends: bool, ladder: Ladder, resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(inputs if i == 0 else outputs, outputs, ladder.dropout, ladder.group) for i in range(blocks))
        self.attention = nn.ModuleList(Attention(outputs, ladder.group) if attends else nn.Identity() for _ in range(blocks))
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The map at the next resolution."""
        for block, attention in zip(self.blocks, self.attention, strict=True):
            x = attention(block(x))
        return self.resample(x)


def middle(channels: int, ladder: Ladder) -> nn.Sequential:
    """The bottom of the ladder: residual block, attention, residual block."""
    shared = (channels, channels, ladder.dropout, ladder.group)
    return nn.Sequential(Residual(*shared), Attention(channels, ladder.group), Residual(*shared))


class Encoder(Described, nn.Module):
    """Images ``(B, C, H, W)`` to maps ``(B, F, H/f, W/f)``.

    Of an image of f x f pixels, a last level with a single channel in each group says nothing: its norms leave none of it.

    Args:
        inputs: C.
        features: F.
        ladder: widths, depths, attention.
    """

    def __init__(self, inputs: int, features: int, ladder: Ladder) -> None:
        super().__init__()
        self.stride = ladder.stride
        widths = ladder.widths
        self.first = nn.Conv2d(inputs, ladder.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        for i, (a, b) in enumerate(zip((ladder.channels, *widths), widths, strict=False)):
            down = Downsample(b, ladder.convolved) if i + 1 < len(widths) else None
            self.levels.append(Level(a, b, ladder.blocks, i in ladder.attention, ladder, down))
        self.middle = middle(widths[-1], ladder)
        self.norm, self.last = Norm(widths[-1], ladder.group), nn.Conv2d(widths[-1], features, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        """The map.

        Raises:
            ValueError: f does not divide the height or the width, or the images have another number of channels.
        """
        self._check(x)
        h = self.first(x)
        for level in self.levels:
            h = level(h)
        return self.last(silu(self.norm(self.middle(h))))

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4:
            raise ValueError(f"images must have shape (B, C, H, W), got {tuple(x.shape)}: unsqueeze a single one")
        if x.shape[1] != self.first.in_channels:
            raise ValueError(f"the encoder was built for images of {self.first.in_channels} channel(s), got {x.shape[1]}: shape {tuple(x.shape)}")
        height, width = x.shape[-2:]
        if height % self.stride or width % self.stride or not height or not width:
            raise ValueError(
                f"the encoder halves images {self.stride.bit_length() - 1} times, so {self.stride} must divide their height and width; "
                f"got {height} x {width}: crop or resize them, e.g. to {max(height // self.stride, 1) * self.stride} x "
                f"{max(width // self.stride, 1) * self.stride}"
            )


class Decoder(Described, nn.Module):
    """Maps ``(B, F, h, w)`` to images ``(B, C, f h, f w)``, unbounded: no squashing at the end.

    Args:
        features: F.
        outputs: C.
        ladder: widths, depths, attention; as in the encoder, level 0 is the finest.
    """

    def __init__(self, features: int, outputs: int, ladder: Ladder) -> None:
        super().__init__()
        widths = ladder.widths
        self.first = nn.Conv2d(features, widths[-1], 3, padding=1)
        self.middle = middle(widths[-1], ladder)
        self.levels = nn.ModuleList()
        for i, (a, b) in enumerate(zip((*widths[1:], widths[-1]), widths, strict=True)):
            up = Upsample(b, ladder.convolved) if i else None
            self.levels.append(Level(a, b, ladder.blocks + ladder.extra, i in ladder.attention, ladder, up))
        self.norm, self.last = Norm(widths[0], ladder.group), nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, maps: Float[Tensor, "B F h w"]) -> Float[Tensor, "B C H W"]:
        """The images."""
        h = self.middle(self.first(maps))
        for level in reversed(self.levels):
            h = level(h)
        return self.last(silu(self.norm(h)))
