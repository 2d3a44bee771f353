"""What a picture of a folder may be conditioned on: a map beside it, such as labels, depth, edges or itself in little."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxtyping import UInt8
from torch import Tensor

from latentcomp.data.listing import Entry
from latentcomp.data.pictures import BadPicture, formats, labels, picture, sized

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("labels", "grey", "colour")


@dataclass(frozen=True)
class Pairs:
    """Maps in a folder of their own, each named as its picture is; the ending may differ.

    Attributes:
        root: the folder.
        kind: ``labels``: class numbers, resized to the nearest; ``grey``: depth or edges; ``colour``: another picture.
        tolerance: a map whose proportions differ from the picture's by more than this share is refused.
    """

    root: str | Path
    kind: Literal["labels", "grey", "colour"] = "labels"
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"maps are of kind {', '.join(KINDS)}; got {self.kind!r}")
        if not Path(self.root).is_dir():
            raise FileNotFoundError(f"{self.root} is no folder: give the folder that holds a map for each picture, named as the picture is")

    @property
    def channels(self) -> int:
        """Of a map."""
        return 3 if self.kind == "colour" else 1

    def files(self) -> dict[str, Path]:
        """Each map's file by its name without ending."""
        root, known = Path(self.root), formats()
        return {p.relative_to(root).with_suffix("").as_posix(): p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix.lower() in known}

    def read(self, entry: Entry, files: dict[str, Path], of: "Image", size: tuple[int, int]) -> UInt8[Tensor, "C H W"]:
        """The map of a picture, at the picture's size after resizing.

        Raises:
            BadPicture: there is none, it cannot be read, or it has other proportions.
        """
        stem = Path(entry.name).with_suffix("").as_posix()
        if stem not in files:
            raise BadPicture(f"it has no map: there is no {stem} with a picture's ending in {self.root}")
        try:
            image = labels(files[stem]) if self.kind == "labels" else picture(files[stem], self.channels)
        except BadPicture as error:
            raise BadPicture(f"of its map {files[stem].name}: {error}") from error
        if abs(image.width * of.height / (image.height * of.width) - 1) > self.tolerance:
            raise BadPicture(f"its map is {image.width}x{image.height}, which is not in the proportions of {of.width}x{of.height}")
        return sized(image, size, "labels" if self.kind == "labels" else "picture")
