"""MNIST and its relatives: 28x28 grey images from local IDX files, or downloaded by torchvision; three ways to make them binary.

How grey pixels become 0 and 1 decides what a nat means, so numbers of different ways are never comparable:

* ``threshold``: on where the grey value exceeds one half, as in GFlowNet-EM's code;
* ``stochastic``: one draw with the grey value for a probability, fixed for ever (the static MNIST of Salakhutdinov and Murray, 2008, in kind; the draw is
  this package's own);
* ``dynamic``: training images are drawn anew in each batch (Burda et al., 2016); validation and test images as in ``stochastic``.
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from latentcomp.data.batches import bernoulli
from latentcomp.data.idx import read
from latentcomp.data.split import Split
from latentcomp.noise import Noise, permutation

Binarisation = Literal["threshold", "stochastic", "dynamic"]
Name = Literal["mnist", "fashion"]
LABELS: dict[str, str] = {
    "threshold": "pixels thresholded at one half",
    "stochastic": "pixels drawn once with their grey value for a probability",
    "dynamic": "training pixels drawn anew in each batch, test pixels once",
}
NAMES: dict[str, str] = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
FILES = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
DRAW = 20230823  # the seed of the fixed draw of stochastic binarisation: the data set's own, not a run's


def mnist(
    root: str | Path | None = None,
    binarisation: Binarisation = "threshold",
    fold: int = 0,
    validation: int = 10_000,
    test: int = 10_000,
    name: Name = "mnist",
) -> Split:
    """MNIST (LeCun et al., 1998) or Fashion-MNIST (Xiao et al., 2017): 60,000 images to learn and choose from, 10,000 to report on, ``(n, 1, 28, 28)``.

    Args:
        root: the folder of the IDX files ``train-images-idx3-ubyte`` and ``t10k-images-idx3-ubyte``, compressed or not; None lets torchvision download them.
        binarisation: ``threshold``, ``stochastic`` or ``dynamic``.
        fold: turns which images are held out for validation.
        validation: how many are.
        test: how many test images, the first of the file.
        name: ``mnist`` or ``fashion``.

    Raises:
        FileNotFoundError: ``root`` is missing or lacks a file; says what lies there and what to do.
        ValueError: a damaged file, or a number or name that does not exist.
    """
    if binarisation not in get_args(Binarisation):
        raise ValueError(f"there is no binarisation {binarisation!r}; known: {', '.join(get_args(Binarisation))}")
    if name not in get_args(Name):
        raise ValueError(f"there is no data set {name!r} here; known: {', '.join(get_args(Name))}")
    folder = _downloaded(name) if root is None else _local(Path(root))
    learn, report = (_images(folder / FILES[part]) for part in ("train", "test"))
    if not 0 < validation < len(learn) or not 0 < test <= len(report):
        raise ValueError(f"validation={validation} and test={test} must leave something of {len(learn)} and {len(report)} images")
    order = permutation(len(learn), fold, 0)
    grey = learn[order[:-validation]]
    binary = _thresholded if binarisation == "threshold" else _drawn
    learn_binary = binary(learn, 0)[order]
    return Split(learn_binary[:-validation], learn_binary[-validation:], binary(report, 1)[:test], grey.contiguous() if binarisation == "dynamic" else None)


def _thresholded(grey: UInt8[Tensor, "n 1 H W"], part: int) -> Float[Tensor, "n 1 H W"]:
    return (grey > 127).float()


def _drawn(grey: UInt8[Tensor, "n 1 H W"], part: int) -> Float[Tensor, "n 1 H W"]:
    rows = torch.arange(len(grey)).split(1000)
    return torch.cat([bernoulli(grey[row], Noise(DRAW, part, row)) for row in rows])


def _images(path: Path) -> UInt8[Tensor, "n 1 28 28"]:
    images = read(path, 3)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{path} holds images of {tuple(images.shape[1:])} pixels, not 28x28: is it the right file?")
    return images.unsqueeze(1)


def _local(root: Path) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(
            f"data.root={root} is no folder: give the folder that holds {FILES['train']} and {FILES['test']} (with or without .gz), or data.root=null to "
            "download them with torchvision"
        )
    return root


def _downloaded(name: Name) -> Path:
    """Where torchvision keeps the files, after it has fetched what is missing."""
    try:
        from torchvision.datasets import MNIST, FashionMNIST
    except ImportError:
        raise ImportError("downloading needs torchvision: pip install torchvision, or give data.root, a folder that holds the IDX files") from None
    cache = Path.home() / ".cache" / "latentcomp"
    kind = {"mnist": MNIST, "fashion": FashionMNIST}[name]
    try:
        return Path(kind(str(cache), download=True).raw_folder)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(f"torchvision could not download {name} ({error}): give data.root, a folder that holds the IDX files") from error
