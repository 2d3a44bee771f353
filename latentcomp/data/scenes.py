"""Scene layouts as codes of a condition: which objects are where (Jahn, Rombach and Ommer, 2021, "High-resolution complex scene synthesis with transformers").

Each object is its class and then its place: two codes for a box, those of its corners, or one for its centre. Places are cells of a square raster, numbered
row by row, of as many cells a side as the vocabulary allows. Objects beyond the largest number are left out, missing ones are filled up with the vocabulary's
last code, and the part of the scene that the image shows may stand behind them as a box of its own. All lengths are shares of the image's sides.

The codes are those of the published builders, but for boxes that the image's left or upper border cuts: there the published code moves the corner and keeps the
whole width, so that the box ends too far on the right.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Box(NamedTuple):
    """A rectangle: the upper left corner, width and height."""

    x: float
    y: float
    width: float
    height: float

    def within(self, part: "Box", flip: bool = False) -> "Box | None":
        """The box as a share of another one, cut at its border, mirrored if asked; None where they do not meet."""
        left, top = max(self.x, part.x), max(self.y, part.y)
        right, bottom = min(self.x + self.width, part.x + part.width), min(self.y + self.height, part.y + part.height)
        if right <= left or bottom <= top:
            return None
        made = Box((left - part.x) / part.width, (top - part.y) / part.height, (right - left) / part.width, (bottom - top) / part.height)
        return made._replace(x=1 - made.x - made.width) if flip else made


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class Object(NamedTuple):
    """What stands in a scene.

    Attributes:
        label: its class, or a number made of the class and other properties.
        box: where.
    """

    label: int
    box: Box


class Layout(ABC):
    """Scenes to codes and back.

    Args:
        labels: how many there are.
        objects: the largest number of objects.
        vocabulary: V, of labels and places alike; its last code stands for a missing object.
        crop: whether the part that the image shows stands behind the objects; then places are those in the whole scene.

    Raises:
        ValueError: the vocabulary holds less than the labels and the code for a missing object, or no raster of four places.
    """

    codes_an_object: int

    def __init__(self, labels: int, objects: int, vocabulary: int, crop: bool = False) -> None:
        if labels < 1 or objects < 1 or vocabulary < max(labels + 1, 4):
            raise ValueError(
                f"a layout wants a label and an object or more, and a vocabulary of them, one code for a missing object and at least four places; "
                f"got {labels} labels, {objects} objects, V={vocabulary}"
            )
        self.labels, self.objects, self.vocabulary, self.crop = labels, objects, vocabulary, crop

    @property
    def side(self) -> int:
        """Cells a side of the raster."""
        return math.isqrt(self.vocabulary)

    @property
    def missing(self) -> int:
        """The code of a missing object."""
        return self.vocabulary - 1

    @property
    def length(self) -> int:
        """M, how many codes a scene has."""
        return self.objects * self.codes_an_object + 2 * self.crop

    def encode(self, scene: Sequence[Object], part: Box = WHOLE, flip: bool = False) -> Int[Tensor, " M"]:
        """The codes of a scene, its objects in the order given.

        Args:
            scene: objects; those outside the part are left out.
            part: what the image shows of the scene.
            flip: whether it shows it mirrored.

        Raises:
            ValueError: a label that there is not, or a box that is none.
        """
        codes: list[int] = []
        for thing in scene:
            self._check(thing)
            inside = thing.box.within(part)
            placed = thing.box.within(WHOLE if self.crop else part, flip)
            if inside is not None and placed is not None and len(codes) < self.objects * self.codes_an_object:
                codes += [thing.label, *self._places(placed)]
        codes += [self.missing] * (self.objects * self.codes_an_object - len(codes))
        if self.crop:
            codes += self._corners(part._replace(x=1 - part.x - part.width) if flip else part)
        return torch.tensor(codes)

    def decode(self, codes: Int[Tensor, " M"]) -> tuple[list[Object], Box]:
        """The scene of some codes, places rounded to the raster, and what the image shows of it.

        Raises:
            ValueError: another number of codes.
        """
        values = codes.tolist()
        if len(values) != self.length:
            raise ValueError(f"a scene of this layout has {self.length} codes, got {len(values)}")
        groups = [values[i : i + self.codes_an_object] for i in range(0, self.objects * self.codes_an_object, self.codes_an_object)]
        scene = [Object(label, self._box(places)) for label, *places in groups if label != self.missing]
        return scene, self._between(*values[-2:]) if self.crop else WHOLE

    def _check(self, thing: Object) -> None:
        if not 0 <= thing.label < self.labels:
            raise ValueError(f"labels must lie in 0..{self.labels - 1}; got {thing.label}")
        if not (thing.box.width > 0 and thing.box.height > 0):
            raise ValueError(f"a box has a positive width and height, as shares of the image's sides; got {thing.box}")

    def _place(self, x: float, y: float) -> int:
        return round(y * (self.side - 1)) * self.side + round(x * (self.side - 1))

    def _corners(self, box: Box) -> list[int]:
        return [self._place(box.x, box.y), self._place(box.x + box.width, box.y + box.height)]

    def _point(self, code: int) -> tuple[float, float]:
        return code % self.side / (self.side - 1), code // self.side / (self.side - 1)

    def _between(self, first: int, last: int) -> Box:
        (left, top), (right, bottom) = self._point(first), self._point(last)
        return Box(left, top, right - left, bottom - top)

    @abstractmethod
    def _places(self, box: Box) -> list[int]:
        """The codes of a place."""

    @abstractmethod
    def _box(self, places: Sequence[int]) -> Box:
        """The place of some codes."""


class Boxes(Layout):
    """Three codes an object: its label, its upper left and its lower right corner."""

    codes_an_object = 3

    def _places(self, box: Box) -> list[int]:
        return self._corners(box)

    def _box(self, places: Sequence[int]) -> Box:
        return self._between(*places)


class Centres(Layout):
    """Two codes an object: its label and its centre; sizes are lost."""

    codes_an_object = 2

    def _places(self, box: Box) -> list[int]:
        return [self._place(box.x + box.width / 2, box.y + box.height / 2)]

    def _box(self, places: Sequence[int]) -> Box:
        return Box(*self._point(places[0]), 0.0, 0.0)
