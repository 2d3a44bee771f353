"""The pictures of one part of a folder, as bytes; those that are no good are left out and reported."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jaxtyping import UInt8
from torch import Tensor

from latentcomp.data.conditions import Pairs
from latentcomp.data.listing import Entry
from latentcomp.data.pictures import BadPicture, picture, size_for, sized
from latentcomp.data.views import View

Pixels = tuple[UInt8[Tensor, "C H W"], UInt8[Tensor, "M H W"] | None]


class Report(dict[str, str]):
    """Why each picture that was left out was left out, by its name."""

    def __str__(self) -> str:
        if not self:
            return "all pictures could be used"
        return "\n".join([f"{len(self)} picture(s) were left out:", *(f"  {name}: {reason}" for name, reason in sorted(self.items()))])


class Pictures:
    """The pictures of one part, as bytes: kept, or read again at each look.

    Args:
        entries: which.
        view: their size and channels.
        pairs: the maps beside them, or None.
        report: takes the bad ones.
        memory: whether to read all at once and keep them; the bad ones then leave ``entries``.
    """

    def __init__(self, entries: Sequence[Entry], view: View, pairs: Pairs | None, report: Report, memory: bool) -> None:
        self.entries, self.view, self.pairs, self.report = list(entries), view, pairs, report
        self.files = {} if pairs is None else pairs.files()
        self.kept: list[Pixels] | None = None
        if memory:
            self._keep()

    def _keep(self) -> None:
        with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
            read = list(pool.map(self._tried, self.entries))
        self.entries = [entry for entry, pixels in zip(self.entries, read, strict=True) if pixels is not None]
        self.kept = [pixels for pixels in read if pixels is not None]

    def _tried(self, entry: Entry) -> Pixels | None:
        try:
            return self.read(entry)
        except BadPicture as error:
            self.report[entry.name] = str(error)
            return None

    def read(self, entry: Entry) -> Pixels:
        """A picture and its map from disk, resized.

        Raises:
            BadPicture: not usable; says why.
        """
        view = self.view
        image = picture(entry.path, view.channels, view.strict)
        if min(image.size) < view.side and not view.enlarge:
            raise BadPicture(
                f"it has {image.width}x{image.height} pixels, and the shorter side is to have {view.side}: give a smaller crop or resize, or enlarge=True"
            )
        size = size_for(image, view.side)
        return sized(image, size, by=view.filter), None if self.pairs is None else self.pairs.read(entry, self.files, image, size)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Pixels:
        return self.read(self.entries[i]) if self.kept is None else self.kept[i]

    def label(self, i: int) -> int:
        """The class of a picture."""
        return self.entries[i].label
