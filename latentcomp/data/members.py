"""The pictures of one part of a folder, as bytes; those that are no good are left out and reported."""

from collections import defaultdict
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
    """Why each picture that was left out was left out, by its name.

    Attributes:
        unlearned: the names of the classes without a training picture that can be used; they keep their numbers, but nothing is learned of them.
    """

    unlearned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there is anything to say."""
        return bool(len(self) or self.unlearned)

    def __str__(self) -> str:
        lines = [f"{len(self)} picture(s) were left out:"] if len(self) else []
        lines += [f"  {name}: {reason}" for name, reason in sorted(self.items())]
        few = f"{len(self.unlearned)} class(es) have no training picture that can be used, and are not learned: {', '.join(self.unlearned)}"
        return "\n".join([*lines, few] if self.unlearned else lines) or "all pictures could be used"


class Pictures:
    """The pictures of one part, as bytes: kept, or read again at each look.

    Args:
        entries: which.
        view: their size and channels.
        pairs: the maps beside them, or None.
        report: takes the bad ones.
        memory: whether to read all at once and keep them; the bad ones then leave ``entries``.
        places: whether what goes with a square is where it lies.
    """

    def __init__(self, entries: Sequence[Entry], view: View, pairs: Pairs | None, report: Report, memory: bool, places: bool = False) -> None:
        self.entries, self.view, self.pairs, self.report, self.places = list(entries), view, pairs, report, places
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

    def learned(self) -> set[int]:
        """The classes of which a picture can be used; where pictures are not kept, one of each is read, or more until one is good."""
        if self.kept is not None:
            return {entry.label for entry in self.entries}
        members = defaultdict[int, list[Entry]](list)
        for entry in self.entries:
            members[entry.label].append(entry)
        with ThreadPoolExecutor() as pool:
            good = list(pool.map(lambda entries: any(self._tried(entry) is not None for entry in entries), members.values()))
        return {label for label, one in zip(members, good, strict=True) if one}

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Pixels:
        return self.read(self.entries[i]) if self.kept is None else self.kept[i]

    def label(self, i: int) -> int:
        """The class of a picture."""
        return self.entries[i].label
