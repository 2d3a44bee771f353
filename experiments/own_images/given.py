"""What the second stage's prior is given: nothing, the class of a picture, where a square of it lies, a map beside it, or itself in little.

Each kind says how the folder of pictures gives it (``condition`` of :class:`~latentcomp.data.image_folder.ImageFolder`), what turns it into codes r out of a
vocabulary, and which conditions samples get.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.making import made
from experiments.own_images.first_stage import Restored, restored
from latentcomp.conditions import Coordinates, LabelMap, Labels, Quantised, Small, coordinate_map
from latentcomp.data.conditions import Pairs
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.listing import listing
from latentcomp.data.members import Pixels
from latentcomp.data.views import View
from latentcomp.noise import Noise
from latentcomp.posteriors.nearest_code import NearestCode

Size = tuple[int, int]  # (H, W) of a picture
_PLACES = 20261130  # the seed of the places of samples: no run's own


class Given(Protocol):
    """A condition."""

    @property
    def condition(self) -> Any:
        """What the folder of pictures gives."""
        ...

    @property
    def stage(self) -> nn.Module | None:
        """Turns it into codes r ``(B, M)``; None where there is none."""
        ...

    @property
    def codes(self) -> int:
        """C, the vocabulary of r; 0 for none."""
        ...

    @property
    def stride(self) -> int | None:
        """Where r is a map, the pixels a side of each of its codes; else None."""
        ...

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> Tensor | None:
        """The conditions c of samples of these numbers, for pictures of a size; ``data`` holds the pictures, for whom they are made from pictures."""
        ...


class Nothing(NamedTuple):
    """p(z)."""

    condition: None = None
    stage: None = None
    codes: int = 0
    stride: int | None = None

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> None:
        """No condition."""


class Classes(NamedTuple):
    """p(z|class): the sub-folder of a picture.

    Attributes:
        names: of the classes.
        only: the number of the one that all samples have; None: they take turns.
        unlearned: the names of those without a training picture, of which there are no samples.
    """

    names: tuple[str, ...]
    only: int | None = None
    condition: str = "class"
    stride: int | None = None
    unlearned: tuple[str, ...] = ()

    @property
    def stage(self) -> Labels:
        """A label is a code."""
        return Labels(self.codes)

    @property
    def codes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> Int[Tensor, " n"]:
        """Sample i has class i modulo C, of the C that were learned, or all have the same."""
        if self.only is not None:
            return torch.full_like(index, self.only)
        learned = torch.tensor([self.names.index(name) for name in self._learned], device=index.device)
        return learned[index % len(learned)]

    @property
    def _learned(self) -> list[str]:
        return [name for name in self.names if name not in self.unlearned]

    def called(self, name: str) -> "Classes":
        """The same, all samples of one class.

        Raises:
            ValueError: there is none of that name, or nothing was learned of it.
        """
        if name not in self.names:
            raise ValueError(f"there is no class {name!r}: the pictures' are {', '.join(self.names)}")
        if name in self.unlearned:
            raise ValueError(
                f"nothing was learned of class {name!r}, which had no training picture that could be used: ask for one of {', '.join(self._learned)}, "
                "or repair its pictures and learn both stages anew"
            )
        return self._replace(only=self.names.index(name))


class Places(NamedTuple):
    """p(z|place): where a square lies in its picture, a code for each site (the coordinates of Esser et al., 2021, section 3.3).

    Attributes:
        codes_of_place: how many steps there are from the first pixel to the last.
        stride: pixels a side of a site.
        view: of the pictures.
    """

    codes_of_place: int
    stride: int
    view: View
    condition: str = "place"

    @property
    def stage(self) -> Coordinates:
        """Coordinates are averaged over sites."""
        return Coordinates(self.codes_of_place, self.stride)

    @property
    def codes(self) -> int:
        """One more, for the last site's mean may round up to it."""
        return self.codes_of_place + 1

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> Float[Tensor, "n 1 H W"]:
        """Whole pictures; of the size of a square, squares at places of their own, functions of the number alone."""
        if size != (self.view.crop, self.view.crop):
            return coordinate_map(len(index), *size).to(index.device)
        places = Noise(_PLACES, 0, index.cpu()).uniform((), (2,)).tolist()
        side = (self.view.side, self.view.side)
        return torch.stack([self.view.coordinates(side, (*place, 1.0)) for place in places]).to(index.device)


class Beside(NamedTuple):
    """p(z|map): what lies beside a picture, as codes; samples are given those of the test pictures, one after the other.

    Attributes:
        condition: how the folder of pictures finds it.
        stage: turns it into codes.
        codes: C.
        stride: pixels of the picture a side for each code.
    """

    condition: dict[str, Any]
    stage: nn.Module
    codes: int
    stride: int

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> Tensor:
        """The middles of the test pictures' maps.

        Raises:
            ValueError: a picture is smaller than that.
        """
        folder, numbers = data(), index.tolist()
        members = folder.pictures["test"]
        maps = torch.stack([_middle(members[i % len(members)], size) for i in numbers])
        return (maps.long() if self.condition["kind"] == "labels" else folder.view.pixels(maps)).to(index.device)


def _middle(pixels: Pixels, size: Size) -> Tensor:
    image, beside = pixels
    top, left = ((of - side) // 2 for of, side in zip(image.shape[1:], size, strict=True))
    if beside is None or top < 0 or left < 0:
        raise ValueError(
            f"samples of {size[0]} x {size[1]} pixels are given parts of test pictures, and one has {image.shape[1]} x {image.shape[2]}: ask for less"
        )
    return beside[:, top : top + size[0], left : left + size[1]]


def nothing(first: Restored) -> Nothing:
    """Nothing, whatever the first stage's folder says of its pictures."""
    return Nothing()


def classes(first: Restored, names: Sequence[str] | None = None, unlearned: Sequence[str] = ()) -> Classes:
    """The class of each picture, its sub-folder; ``names`` and ``unlearned`` of a finished run, which then needs no pictures.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: pictures lie outside any sub-folder.
    """
    data = first.config.data
    return Classes(tuple(names if names is not None else listing(Path(data.root), True, data.parts.by == "folder")[1]), unlearned=tuple(unlearned))


def as_first(first: Restored) -> Given:
    """What the first stage's data.condition says: the class, or nothing."""
    return classes(first) if first.config.data.condition == "class" else Nothing()


def read(given: Given, data: ImageFolder) -> Given:
    """The same, knowing what only reading the pictures shows: of which classes there is none to learn from."""
    return given._replace(unlearned=data.report.unlearned) if isinstance(given, Classes) else given


def coordinates(first: Restored, codes: int = 256) -> Places:
    """Where a square lies in its picture; ``codes`` steps from the first pixel to the last."""
    return Places(codes, first.stride, made(first.config.data.view))


def maps(first: Restored, root: str | None, kind: str = "labels", classes: int | None = None, stage: str | None = None) -> Beside:
    """Maps in a folder of their own, named as the pictures are.

    Args:
        first: of the pictures.
        root: the folder of maps.
        kind: ``labels``: class numbers, which are codes themselves; ``grey`` or ``colour``: depth, edges or other pictures.
        classes: of labels, how many.
        stage: of the other kinds, the folder of the first stage that learned them, with ``data.root`` the folder of maps.

    Raises:
        FileNotFoundError: the folder of maps is none.
        ValueError: something is not given, or the first stage of maps does not fit.
    """
    if root is None:
        raise ValueError("give condition.root=FOLDER, the folder that holds a map for each picture, named as the picture is")
    condition = {"_target_": "latentcomp.data.conditions.Pairs", "root": root, "kind": kind}
    channels = Pairs(root, kind).channels  # type: ignore[arg-type]  # which it refuses itself
    if kind == "labels":
        if classes is None:
            raise ValueError("give condition.classes=NUMBER, how many classes label maps hold, numbered from 0")
        return Beside(condition, LabelMap(classes, first.stride), classes, first.stride)
    if stage is None:
        raise ValueError(f"condition.kind={kind} wants condition.stage=FOLDER, the run of experiment=images/first_stage data.root={root} channels={channels}")
    own = restored(stage)
    if own.config.data.view.channels != channels or first.config.data.view.crop % own.stride:
        raise ValueError(
            f"the maps' first stage in {stage} has {own.config.data.view.channels} channel(s) and a code for {own.stride} pixels; these maps have {channels}, "
            f"and squares of {first.config.data.view.crop} pixels: train one with channels={channels} on them"
        )
    return Beside(condition, _codes(own), max(own.model.cardinalities), own.stride)


def _codes(stage: Restored) -> Quantised:
    posterior = stage.learner.posterior
    if not isinstance(posterior, NearestCode):
        raise ValueError(
            f"{stage.folder} holds a {type(posterior).__name__}, and conditions are nearest codes: take a first stage of images/first_stage's presets"
        )
    return Quantised(posterior.encoder, stage.model.codebook)


def low_resolution(first: Restored, factor: int = 2) -> Beside:
    """The picture itself, its sides shrunk by ``factor``, as codes of the same first stage.

    Raises:
        ValueError: the factor leaves no whole codes.
    """
    view, stride = first.config.data.view, factor * first.stride
    if factor < 2 or view.crop % stride:
        raise ValueError(f"condition.factor={factor} makes squares of {view.crop} pixels smaller; they must then hold whole codes of {first.stride} pixels")
    condition = {"_target_": "latentcomp.data.conditions.Pairs", "root": first.config.data.root, "kind": "grey" if view.channels == 1 else "colour"}
    return Beside(condition, Small(_codes(first), factor), max(first.model.cardinalities), stride)
