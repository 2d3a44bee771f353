"""What the second stage's prior is given besides the codes before: nothing, or the class of a picture.

Each kind says how the folder of pictures gives it (``condition`` of :class:`~latentcomp.data.image_folder.ImageFolder`), what turns it into codes r out of a
vocabulary, and which conditions samples get.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Int
from torch import Tensor, nn

from experiments.own_images.first_stage import Restored
from latentcomp.conditions import Labels
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.listing import listing

Size = tuple[int, int]  # (H, W) of a picture


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
    """

    names: tuple[str, ...]
    only: int | None = None
    condition: str = "class"
    stride: int | None = None

    @property
    def stage(self) -> Labels:
        """A label is a code."""
        return Labels(self.codes)

    @property
    def codes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def of(self, index: Int[Tensor, " n"], size: Size, data: Callable[[], ImageFolder]) -> Int[Tensor, " n"]:
        """Sample i has class i modulo C, or all have the same."""
        return index % self.codes if self.only is None else torch.full_like(index, self.only)

    def called(self, name: str) -> "Classes":
        """The same, all samples of one class.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"there is no class {name!r}: the pictures' are {', '.join(self.names)}")
        return self._replace(only=self.names.index(name))


def nothing(first: Restored) -> Nothing:
    """Nothing, whatever the first stage's folder says of its pictures."""
    return Nothing()


def classes(first: Restored, names: Sequence[str] | None = None) -> Classes:
    """The class of each picture, its sub-folder; ``names`` of a finished run, which then needs no pictures.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: pictures lie outside any sub-folder.
    """
    data = first.config.data
    return Classes(tuple(names if names is not None else listing(Path(data.root), True, data.parts.by == "folder")[1]))


def as_first(first: Restored) -> Given:
    """What the first stage's data.condition says: the class, or nothing."""
    return classes(first) if first.config.data.condition == "class" else Nothing()
