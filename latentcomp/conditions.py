"""What a second stage is conditioned on: each kind turns a condition c into codes r ``(B, M)``, which stand before the image's own.

``encode`` is what a first stage offers too (:class:`Encoded`, or :class:`~latentcomp.taming.first_stage.FirstStage`), for conditions that are images: depth
maps, segmentations, edges, small images. A network whose condition has a vocabulary of its own counts r from 0; where r and z share one table, as in the
published networks, :class:`Shifted` keeps them apart.
"""

from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor, nn
from torch.nn.functional import interpolate

from latentcomp.codebook.geometry import Geometry
from latentcomp.described import Described
from latentcomp.model import LatentVariableModel
from latentcomp.nn.prefix import refuse_unless
from latentcomp.posteriors.posterior import Posterior


@runtime_checkable
class Condition(Protocol):
    """Anything that turns conditions into codes."""

    def encode(self, c: Tensor, /) -> Tensor:
        """Codes ``(B, M)``."""
        ...


class Labels(Described, nn.Module):
    """A class label is a code itself.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def encode(self, c: Int[Tensor, " B"]) -> Int[Tensor, "B 1"]:
        """One code for each label.

        Raises:
            TypeError: the labels are no whole numbers.
            ValueError: a label lies outside 0..classes-1, or they do not have the shape (B,).
        """
        if c.ndim != 1:
            raise ValueError(f"labels have shape (B,), one for each image; got {tuple(c.shape)}")
        _check_codes(c, self.classes, "labels")
        return c.long().unsqueeze(-1)


class Tokens(Described, nn.Module):
    """Codes made elsewhere, such as those of a scene's boxes.

    Args:
        vocabulary: V.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def encode(self, c: Int[Tensor, "B M"]) -> Int[Tensor, "B M"]:
        """The codes themselves.

        Raises:
            TypeError: they are no whole numbers.
            ValueError: one lies outside the vocabulary, or they do not have the shape (B, M).
        """
        if c.ndim != 2:
            raise ValueError(f"condition codes have shape (B, M), got {tuple(c.shape)}")
        _check_codes(c, self.vocabulary, "condition codes")
        return c.long()


class StartCode(Described, nn.Module):
    """No condition: the same code before every image.

    Args:
        code: which.
    """

    def __init__(self, code: int = 0) -> None:
        super().__init__()
        self.code = code

    def encode(self, c: Tensor) -> Int[Tensor, "B 1"]:
        """The start code, once for each row of any tensor."""
        return torch.full((len(c), 1), self.code, device=c.device)


class Coordinates(Described, nn.Module):
    """Where a crop lies in its image: a map of numbers in [0, 1], averaged over squares and rounded to codes.

    Args:
        codes: how many steps there are from 0 to 1.
        stride: the side of a square, in pixels.
    """

    def __init__(self, codes: int, stride: int) -> None:
        super().__init__()
        self.codes, self.stride = codes, stride

    def encode(self, c: Float[Tensor, "B 1 H W"]) -> Int[Tensor, "B M"]:
        """One code for each square, row by row; a map of ones gives the code ``codes``, which few vocabularies have.

        Raises:
            ValueError: the map has more than one channel, values outside [0, 1], or sides that the stride does not divide.
        """
        if c.ndim != 4 or c.shape[1] != 1:
            raise ValueError(f"a coordinate map has shape (B, 1, H, W), got {tuple(c.shape)}")
        refuse_unless(((c >= 0) & (c <= 1)).all(), c, "coordinates must lie in [0, 1]")
        _check_sides(c, self.stride, "coordinate map")
        size = (c.shape[-2] // self.stride, c.shape[-1] // self.stride)
        return (self.codes * interpolate(c, size=size, mode="area").clamp(0, 1)).round().long().flatten(1)


class LabelMap(Described, nn.Module):
    """A segmentation by its own class numbers, of each square the one in its middle: codes without a first stage of maps.

    Args:
        classes: how many there are.
        stride: the side of a square, in pixels.
    """

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        self.classes, self.stride = classes, stride

    def encode(self, c: Int[Tensor, "B 1 H W"]) -> Int[Tensor, "B M"]:
        """One code for each square, row by row.

        Raises:
            TypeError: the classes are no whole numbers.
            ValueError: the map has more than one channel, a class outside 0..classes-1, or sides that the stride does not divide.
        """
        if c.ndim != 4 or c.shape[1] != 1:
            raise ValueError(f"a label map has shape (B, 1, H, W), got {tuple(c.shape)}")
        _check_codes(c, self.classes, "classes of a label map")
        _check_sides(c, self.stride, "label map")
        return c[:, 0, self.stride // 2 :: self.stride, self.stride // 2 :: self.stride].long().flatten(1)


class Small(Described, nn.Module):
    """The condition is an image made smaller, by means over squares, and then encoded: what a prior is given that enlarges.

    Args:
        stage: of the small image, such as :class:`Quantised`.
        factor: by which its sides shrink.
    """

    def __init__(self, stage: nn.Module, factor: int) -> None:
        super().__init__()
        self.stage, self.factor = checked_stage(stage), factor

    def encode(self, c: Float[Tensor, "B C H W"]) -> Int[Tensor, "B M"]:
        """The codes of the small image.

        Raises:
            ValueError: the factor does not divide the sides, or as the stage.
        """
        _check_sides(c, self.factor, "picture to be made smaller")
        return cast(Condition, self.stage).encode(interpolate(c, size=(c.shape[-2] // self.factor, c.shape[-1] // self.factor), mode="area"))


def coordinate_map(rows: int, height: int, width: int) -> Float[Tensor, "B 1 H W"]:
    """Where each pixel stands in its image, row by row, from 0 up to but not 1: what :class:`Coordinates` reads, whole or cropped."""
    return (torch.arange(height * width) / (height * width)).view(1, 1, height, width).expand(rows, -1, -1, -1)


class Encoded(Described, nn.Module):
    """The condition is an image, and its codes are those that a frozen first stage of its own gives it.

    Args:
        model: of that first stage; its codebook is used.
        posterior: q(r|c), of which the mode is taken.
    """

    def __init__(self, model: LatentVariableModel, posterior: Posterior) -> None:
        super().__init__()
        self.model, self.posterior = model, posterior

    def encode(self, c: Num[Tensor, "B C H W"]) -> Int[Tensor, "B M"]:
        """The codes, row by row of their grid.

        Raises:
            ValueError: what the first stage's encoder raises for maps of a wrong shape.
        """
        return self.posterior(self.model, c).mode


class Quantised(Described, nn.Module):
    """The same of a first stage whose codes are the nearest ones, by its parts: of images of any size that the encoder takes, where a posterior knows one.

    Args:
        encoder: images to vectors ``(B, N, D)``, row by row of their grid, such as :class:`~latentcomp.nn.grid.SiteEncoder`.
        codebook: the codes.
    """

    def __init__(self, encoder: nn.Module, codebook: Geometry) -> None:
        super().__init__()
        self.encoder, self.codebook = encoder, codebook

    def encode(self, c: Num[Tensor, "B C H W"]) -> Int[Tensor, "B M"]:
        """The nearest codes, row by row.

        Raises:
            ValueError: what the encoder raises for images of a wrong shape.
        """
        return self.codebook.nearest(self.encoder(c))


class Shifted(Described, nn.Module):
    """The codes of another condition, counted from another number than 0: behind the codes of z, where both stand in one table.

    Args:
        stage: the other condition.
        by: how far, such as K.
    """

    def __init__(self, stage: nn.Module, by: int) -> None:
        super().__init__()
        self.stage, self.by = checked_stage(stage), by

    def encode(self, c: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B M"]:
        """The codes, shifted."""
        return cast(Condition, self.stage).encode(c) + self.by


class Conditioning(Described, nn.Module):
    """A condition as a prior takes it: a module from c to its codes. What turns it into codes is frozen, and in evaluation mode whatever the prior does.

    Args:
        stage: turns conditions into codes.
        side: condition maps are shrunk to so many pixels a side first; None leaves them as they are.
    """

    def __init__(self, stage: nn.Module, side: int | None = None) -> None:
        super().__init__()
        self.stage, self.side = checked_stage(stage).requires_grad_(False).eval(), side

    def train(self, mode: bool = True) -> "Conditioning":
        """The stage stays in evaluation mode."""
        super().train(mode)
        self.stage.eval()
        return self

    @torch.no_grad()
    def forward(self, c: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B M"]:
        """The codes."""
        return cast(Condition, self.stage).encode(c if self.side is None else _shrunk(c, self.side))


def checked_stage(stage: nn.Module) -> nn.Module:
    """Refuses what turns no conditions into codes.

    Raises:
        TypeError: it has no method ``encode``.
    """
    if not isinstance(stage, Condition):
        raise TypeError(f"a condition stage needs a method encode(c) that gives codes (B, M); {type(stage).__name__} has none")
    return stage


def _shrunk(c: Tensor, side: int) -> Tensor:
    """So many pixels a side, each the nearest one's value, in the dtype that it has: torch picks among floats and bytes alone. Exact up to 2^24."""
    return interpolate(c if c.is_floating_point() else c.float(), size=(side, side)).to(c.dtype)


def _check_codes(c: Tensor, codes: int, what: str) -> None:
    if c.is_floating_point() or c.is_complex() or c.dtype == torch.bool:
        raise TypeError(f"{what} are whole numbers, got {c.dtype}: convert them, e.g. with .long()")
    refuse_unless(((c >= 0) & (c < codes)).all(), c, f"{what} must lie in 0..{codes - 1}")


def _check_sides(c: Tensor, by: int, what: str) -> None:
    if c.shape[-1] % by or c.shape[-2] % by:
        raise ValueError(f"{by} must divide the sides of a {what}; got {c.shape[-2]} x {c.shape[-1]}: crop or resize it")
