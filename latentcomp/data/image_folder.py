"""A folder of pictures: in three parts, seen through squares that are cut anew in each epoch, bad files left out and reported by name.

Which square of a picture training sees is a function of (seed, epoch, index) alone, so a resumed run, another number of workers and another batch size see
the same squares. An example is a square: with ``crops`` squares of each picture, example i shows picture i // crops.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from latentcomp.batch import Batch
from latentcomp.data.conditions import Pairs
from latentcomp.data.listing import PARTS, Parts, listing
from latentcomp.data.members import Pictures, Report
from latentcomp.data.split import Split
from latentcomp.data.squares import SquareBatches
from latentcomp.data.views import View


class ImageFolder:
    """Training, validation and test pictures.

    Args:
        root: the folder; pictures may lie in sub-folders of it.
        view: how a picture becomes x.
        parts: which pictures are held out.
        condition: ``class``: the sub-folder is the class, c ``(B,)``; ``place``: where the square lies in its picture, c ``(B, 1, H, W)`` in [0, 1], as
            :func:`~latentcomp.conditions.coordinate_map`; ``Pairs``: c is a map, ``(B, 1, H, W)`` of class numbers or in the units of x; or None.
        memory: whether pictures are kept as bytes, read once; else they are read at each look, for folders larger than memory.
        workers: processes that prepare batches; 0 for none.

    Attributes:
        classes: their names, in the order of their numbers.
        report: which pictures were left out, and why (without ``memory`` it grows while they are read); and of which classes nothing is learned.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no picture, no usable one, or too few for three parts; or the condition is none of these.
    """

    def __init__(
        self,
        root: str | Path,
        view: View = View(),  # noqa: B008 - frozen
        parts: Parts = Parts(),  # noqa: B008 - frozen
        condition: Literal["class", "place"] | Pairs | None = None,
        memory: bool = True,
        workers: int = 0,
    ) -> None:
        _check_condition(condition)
        self.root, self.view, self.workers, self.report = Path(root), view, workers, Report()
        self.condition = condition
        entries, self.classes = listing(self.root, condition == "class", parts.by == "folder")
        pairs = condition if isinstance(condition, Pairs) else None
        places = condition == "place"
        self.pictures = {part: Pictures(members, view, pairs, self.report, memory, places) for part, members in parts.split(entries).items()}
        self._check()
        if self.classes:
            learned = self.pictures["train"].learned()
            self.report.unlearned = tuple(name for i, name in enumerate(self.classes) if i not in learned)

    def _check(self) -> None:
        empty = [part for part in PARTS if not self.pictures[part]]
        if empty:
            few = "\n".join(str(self.report).splitlines()[:6])
            raise ValueError(
                f"of the pictures in {self.root}, none that can be used is left for {' and '.join(empty)}: repair them, or hold out others (another fold, "
                f"larger shares). {few}"
            )

    def __len__(self) -> int:
        return sum(map(len, self.pictures.values()))

    def batches(self, size: int, updates: int, seed: int = 0) -> SquareBatches:
        """Batches of training squares, cut anew each epoch; of all of them where an epoch has fewer than ``size``."""
        return SquareBatches(self.pictures["train"], min(size, len(self.pictures["train"]) * self.view.crops), updates, seed, self.workers)

    def held_out(self, part: str, size: int = 64) -> Iterator[Batch]:
        """The squares of a part that never change, in batches, the last of them smaller; ``part`` is train, validation or test. Bad pictures are left out."""
        pictures, crops = self.pictures[part], self.view.crops
        for index in torch.arange(len(pictures) * crops).split(size):
            yield from SquareBatches.fixed(pictures, index)

    def name(self, part: str, index: int) -> str:
        """The picture's name that an example of a part shows."""
        return self.pictures[part].entries[index // self.view.crops].name

    def split(self) -> Split:
        """The same as tensors ``(n, C, H, W)``, for what wants all at once; its batches are still cut anew each epoch."""
        tensors = (torch.cat([batch.x for batch in self.held_out(part)]) for part in PARTS)
        split = FolderSplit(*tensors)
        split.folder = self
        return split

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """Of x."""
        return self.view.channels, self.view.crop, self.view.crop


def _check_condition(condition: object) -> None:
    """A name that nobody knows would give pictures without a condition."""
    if not (condition is None or isinstance(condition, Pairs) or condition in ("class", "place")):
        raise ValueError(
            f'condition={condition!r} is none that a folder gives: take "class" (the sub-folder of a picture), "place" (where a square lies), Pairs(...) '
            "(a map beside each picture), or None"
        )


class FolderSplit(Split):
    """Squares that never change, by which ``compare`` and the tables judge, and batches of squares that do."""

    folder: ImageFolder

    def _replace(self, **fields: Any) -> "FolderSplit":
        """With other tensors; the squares that change are those of the same folder."""
        other = super()._replace(**fields)
        other.folder = self.folder
        return other

    def batches(self, size: int, updates: int, seed: int = 0) -> SquareBatches:  # type: ignore[override]
        """Batches of training squares."""
        return self.folder.batches(size, updates, seed)


def image_split(root: str | Path, view: View = View(), parts: Parts = Parts(), memory: bool = True, workers: int = 0) -> Split:  # noqa: B008 - frozen
    """A folder of pictures as a ``Split``, to use wherever digits can be used; arguments as of :class:`ImageFolder`."""
    return ImageFolder(root, view, parts, None, memory, workers).split()
