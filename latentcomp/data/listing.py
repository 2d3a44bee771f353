"""Which pictures a folder holds, what each is conditioned on, and which of them are held out."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from latentcomp.data.pictures import formats

PARTS = ("train", "validation", "test")
SUBFOLDERS = {"train": ("train", "training"), "validation": ("validation", "val", "valid"), "test": ("test", "testing")}


class Entry(NamedTuple):
    """A picture: its file, its name within the folder (with slashes on every system), and the class it belongs to, -1 for none."""

    path: Path
    name: str
    label: int = -1


@dataclass(frozen=True)
class Parts:
    """Which pictures are held out.

    Attributes:
        validation: the share to choose by.
        test: the share to report on; no fold changes it.
        fold: turns which of the others are held out for validation.
        by: ``hash``: the SHA-256 of a picture's name decides, so that neither other files nor the order of a listing move it; each part gets at least one.
            ``folder``: the pictures lie in folders ``train``, ``validation`` (or ``val``) and ``test`` already.
    """

    validation: float = 0.1
    test: float = 0.1
    fold: int = 0
    by: Literal["hash", "folder"] = "hash"

    def __post_init__(self) -> None:
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ValueError(f"validation={self.validation} and test={self.test} are shares, both above 0, that leave something to learn from")
        if self.by not in ("hash", "folder"):
            raise ValueError(f"pictures are parted by hash or by folder, not by {self.by!r}")

    def split(self, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
        """The pictures of each part, by its name, in the order of ``entries``.

        Raises:
            ValueError: fewer than three pictures, or a part without any.
        """
        if self.by == "folder":
            return _by_folder(entries)
        if len(entries) < len(PARTS):
            raise ValueError(f"{len(entries)} usable picture(s) cannot be parted into training, validation and test: three are the least")
        test = _lowest(entries, "test", self.test)
        rest = [entry for entry in entries if entry.name not in test]
        validation = _lowest(rest, f"fold {self.fold}", self.validation / (1 - self.test), len(rest) - 1)
        return {
            "train": [entry for entry in rest if entry.name not in validation],
            "validation": [entry for entry in rest if entry.name in validation],
            "test": [entry for entry in entries if entry.name in test],
        }


def _lowest(entries: Sequence[Entry], salt: str, share: float, most: int | None = None) -> set[str]:
    """The names whose hash falls below ``share``; the lowest of all where none does, and never more than ``most``."""
    numbers = {entry.name: int.from_bytes(hashlib.sha256(f"{salt}\0{entry.name}".encode()).digest()[:8]) / 2**64 for entry in entries}
    order = sorted(numbers, key=numbers.__getitem__)
    return set(order[: max(1, min(sum(u < share for u in numbers.values()), len(order) - 1 if most is None else most))])


def _by_folder(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    parts = {part: [entry for entry in entries if entry.name.split("/")[0].lower() in SUBFOLDERS[part]] for part in PARTS}
    empty = [part for part in PARTS if not parts[part]]
    if empty:
        there = ", ".join(sorted({entry.name.split("/")[0] for entry in entries})[:8])
        raise ValueError(f"no usable picture lies in a folder called {' or '.join(SUBFOLDERS[empty[0]])}; there are {there}: make one, or part by hash")
    return parts


def listing(root: Path, labelled: bool = False, parted: bool = False) -> tuple[list[Entry], list[str]]:
    """All pictures below a folder, by name, and the names of their classes.

    Args:
        root: the folder; sub-folders count, hidden files do not. A link to nothing counts as the file it should be: reading it says what is wrong.
        labelled: whether the folder that a picture lies in, directly below ``root`` (or below ``train`` and so on, where ``parted``), is its class.
        parted: whether the first folder of a name says to which part it belongs.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no picture, or pictures outside any class.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root} is no folder: give the folder that holds the pictures")
    files = sorted(path for path in root.rglob("*") if _is_file(path) and not any(part.startswith(".") for part in path.relative_to(root).parts))
    known = formats()
    pictures = [path for path in files if path.suffix.lower() in known]
    if not pictures:
        endings = ", ".join(f"{n} {ending or 'without ending'}" for ending, n in Counter(path.suffix for path in files).most_common(5))
        raise ValueError(f"{root} holds no picture ({endings or 'it is empty'}): give a folder with .jpg, .png, .webp, .tif or other files that Pillow reads")
    names = [path.relative_to(root).as_posix() for path in pictures]
    if not labelled:
        return [Entry(path, name) for path, name in zip(pictures, names, strict=True)], []
    return _labelled(pictures, names, depth=int(parted))


def _is_file(path: Path) -> bool:
    """A file, or a link to nothing; no folder, and no device or pipe, which would be waited for."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _labelled(pictures: list[Path], names: list[str], depth: int) -> tuple[list[Entry], list[str]]:
    places = [name.split("/")[depth:] for name in names]
    loose = [name for name, place in zip(names, places, strict=True) if len(place) < 2]
    if loose:
        raise ValueError(f"{len(loose)} picture(s) lie in no class's folder, such as {loose[0]}: move them into one folder a class, or leave labels away")
    classes = sorted({place[0] for place in places})
    number = {name: i for i, name in enumerate(classes)}
    return [Entry(path, name, number[place[0]]) for path, name, place in zip(pictures, names, places, strict=True)], classes
