"""What the rows learn from: a user's own copy of a published data set, or small pictures that stand in for it.

All give batches of pictures x in [-1, 1] and of what they are conditioned on, c: nothing, class numbers ``(B,)``, maps of class numbers ``(B, 1, H, W)``, or
depth in the units of x. What stands in has its maps made from the pictures themselves: three grey levels for classes, a blurred picture for depth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad

from latentcomp.batch import Batch
from latentcomp.data.batches import Batches
from latentcomp.data.conditions import Pairs
from latentcomp.data.idx import read
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.listing import PARTS, Parts
from latentcomp.data.views import View
from latentcomp.noise import permutation

Condition = Literal["class", "labels", "depth"]
PATTERNS = {
    None: "{name}, the pictures, in sub-folders or not",
    "class": "{name}, the pictures, in one sub-folder for each class",
    "labels": "{name}/images, the pictures, and {name}/maps, label maps named as they are: one class number a pixel",
    "depth": "{name}/images, the pictures, and {name}/maps, grey depth maps named as they are",
}
FASHION = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Own(ImageFolder):
    """A published data set in a folder.

    Attributes:
        values: how many classes c has; 0 where it has none.
    """

    values = 0


def own(
    root: str | Path | None, name: str, title: str, condition: Condition | None = None, classes: int = 0, view: View | None = None, parts: Parts | None = None
) -> Own:
    """The data set of a row, from the folder of all of them.

    Args:
        root: that folder.
        name: of the data set's own folder in it.
        title: what the data set is called.
        condition: what c is.
        classes: of label maps.
        view: how a picture becomes x.
        parts: which pictures are held out.

    Raises:
        SystemExit: no folder was given, or what it should hold is missing; says what is expected where.
    """
    expected = PATTERNS[condition].format(name=name)
    if root is None:
        raise SystemExit(f"error: this row learns from {title}: give data.root=FOLDER, a folder that holds {expected}. budget=cpu does without")
    maps = condition in ("labels", "depth")
    needed = [Path(root) / name / part for part in ("images", "maps")] if maps else [Path(root) / name]
    for folder in needed:
        if not folder.is_dir():
            raise SystemExit(f"error: there is no folder {folder}: data.root={root} must hold {expected}; this row learns from {title}")
    pairs = Pairs(needed[1], "labels" if condition == "labels" else "grey") if maps else None
    made = Own(needed[0], view or View(), parts or Parts(), pairs or ("class" if condition == "class" else None), memory=False)
    made.values = classes if condition == "labels" else len(made.classes)
    return made


class Standin:
    """Pictures in memory.

    Args:
        parts: all of each part: x ``(n, C, H, W)`` and c, or no c.
        labels: the class of each picture ``(n,)`` by part, for what judges or rejects samples; None where they have none.
    """

    def __init__(self, parts: Mapping[str, Batch], labels: Mapping[str, Tensor] | None = None) -> None:
        self.parts, self.labels = dict(parts), labels
        classes = [part.c for part in parts.values() if part.c is not None and not part.c.is_floating_point()]
        self.values = max((int(c.max()) + 1 for c in classes), default=0)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of x."""
        return tuple(self.parts["train"].x.shape[1:])

    def batches(self, size: int, updates: int, seed: int = 0) -> Batches:
        """Batches of the training pictures; of all of them where they are fewer than ``size``."""
        train = self.parts["train"]
        return Batches(train.x, min(size, train.size), updates, seed, train.c)

    def held_out(self, part: str, size: int = 250) -> Iterator[Batch]:
        """A part in order, in batches."""
        whole = self.parts[part]
        yield from whole.split(-(-whole.size // size))


Source = Own | Standin


def _grey(x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n 1 H W"]:
    return x.mean(1, keepdim=True)


def levels(x: Float[Tensor, "n C H W"]) -> Int[Tensor, "n 1 H W"]:
    """Three classes of brightness, in place of a segmentation."""
    return ((_grey(x) > -1 / 3).long() + (_grey(x) > 1 / 3)).long()


def blurred(x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n 1 H W"]:
    """A picture of an eighth of the sides, enlarged again, in place of depth."""
    height, width = x.shape[-2:]
    small = adaptive_avg_pool2d(_grey(x), (height // 8, width // 8))
    return interpolate(small, (height, width), mode="bilinear").clamp(-1, 1)


def standin(x: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None, condition: Condition | None) -> Standin:
    """Pictures with a condition made for them.

    Raises:
        ValueError: classes are asked for, and there are none.
    """
    if condition == "class" and labels is None:
        raise ValueError("this row is given the class of a picture, and these pictures have none: put them into one sub-folder for each class")
    made: Mapping[Any, Callable[[str], Tensor | None]] = {
        None: lambda part: None,
        "class": lambda part: labels[part] if labels else None,
        "labels": lambda part: levels(x[part]),
        "depth": lambda part: blurred(x[part]),
    }
    return Standin({part: Batch(x[part], made[condition](part), None, torch.arange(len(x[part]))) for part in PARTS}, labels)


def _parted(
    learn: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], keep: Sequence[int] | None, fold: int, validation: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pictures and labels of the kept classes, numbered anew, by part; the fold turns which pictures, a fifth at most, are held out to choose by."""
    classes = torch.arange(10) if keep is None else torch.tensor(list(keep))
    chosen = [torch.isin(labels, classes) for _, labels in (learn, test)]
    (x, y), (test_x, test_y) = ((x[some], torch.searchsorted(classes, y[some])) for (x, y), some in zip((learn, test), chosen, strict=True))
    order, held_out = permutation(len(x), fold, 0), min(validation, len(x) // 5)
    train, held = order[:-held_out], order[-held_out:]
    return {"train": x[train], "validation": x[held], "test": test_x}, {"train": y[train], "validation": y[held], "test": test_y}


def digits(condition: Condition | None = None, keep: Sequence[int] | None = None, side: int = 32, channels: int = 1, fold: int = 0, train: int = 0) -> Standin:
    """The 8x8 digits of scikit-learn, grey, enlarged smoothly.

    Args:
        condition: what c is.
        keep: which digits, in rising order; None for all.
        side: pixels.
        channels: 1, or 3 equal ones.
        fold: turns which tenth of the first 1,500 is held out to choose by; the last 297 are the test pictures.
        train: the first so many training pictures; 0 for all.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    small, labels = torch.as_tensor(found.images).float().unsqueeze(1) / 8 - 1, torch.as_tensor(found.target)
    x = interpolate(small, (side, side), mode="bicubic").clamp(-1, 1).expand(-1, channels, -1, -1).contiguous()
    images, classes = _parted((x[:1500], labels[:1500]), (x[1500:], labels[1500:]), keep, fold, 60)
    cut = {part: train or len(images[part]) for part in PARTS}
    return standin({part: images[part][:n] for part, n in cut.items()}, {part: classes[part][:n] for part, n in cut.items()}, condition)


def fashion_mnist(
    root: str | Path | None,
    condition: Condition | None = None,
    keep: Sequence[int] | None = None,
    side: int = 32,
    channels: int = 1,
    fold: int = 0,
    train: int = 0,
) -> Standin:
    """Fashion-MNIST, or MNIST, grey, with a dark border up to ``side`` pixels; arguments as of :func:`digits`, but that at most 20,000 pictures are learned.

    Raises:
        SystemExit: no folder was given; names the files that are expected in it.
    """
    if root is None:
        raise SystemExit(f"error: give data.root=FOLDER, a folder that holds {', '.join(FASHION)}, with or without .gz")
    images = [_framed(read(Path(root) / name, 3), side, channels) for name in FASHION[::2]]
    labels = [read(Path(root) / name, 1).long() for name in FASHION[1::2]]
    x, y = _parted((images[0], labels[0]), (images[1], labels[1]), keep, fold, 2000)
    cut = {"train": train or 20_000, "validation": train or 2000, "test": train or 2000}
    return standin({part: x[part][:n] for part, n in cut.items()}, {part: y[part][:n] for part, n in cut.items()}, condition)


def _framed(grey: Tensor, side: int, channels: int) -> Float[Tensor, "n C H W"]:
    x = grey.float().unsqueeze(1) / 127.5 - 1
    border = side - x.shape[-1]
    return pad(x, (border // 2, border - border // 2) * 2, value=-1.0).expand(-1, channels, -1, -1).contiguous()


def folder(
    root: str | Path | None,
    condition: Condition | None = None,
    keep: Sequence[int] | None = None,
    side: int = 32,
    channels: int = 3,
    fold: int = 0,
    train: int = 0,
) -> Standin:
    """Squares of the pictures of a folder, cut once; arguments as of :func:`digits`, but that ``keep`` says nothing of pictures without classes.

    Raises:
        SystemExit: no folder was given.
        ValueError: classes are asked for, and the pictures lie in no sub-folders.
    """
    if root is None:
        raise SystemExit("error: give data.root=FOLDER, a folder of pictures")
    view = View(side, 2 * side, crops=16, channels=channels)
    pictures = ImageFolder(root, view, Parts(fold=fold), "class" if condition == "class" else None)
    x, classes = dict[str, Tensor](), dict[str, Tensor]()
    for part in PARTS:
        batches = list(pictures.held_out(part))
        some = permutation(sum(batch.size for batch in batches), 0, 0)[: train or None]
        x[part] = torch.cat([batch.x for batch in batches])[some]
        if condition == "class":
            classes[part] = torch.cat([batch.c for batch in batches if batch.c is not None])[some]
    return standin(x, classes or None, condition)
