"""LPIPS on AlexNet: the judge of what was trained on LPIPS of VGG-16, which is a biased witness then, and the faster of the two."""

from pathlib import Path
from typing import ClassVar, Literal

from latentcomp.nn.lpips import LPIPS


class AlexLPIPS(LPIPS):
    """The distance of version 0.1 on AlexNet; everything else as in :class:`~latentcomp.nn.lpips.LPIPS`.

    Args:
        weights: a file of torchvision's AlexNet, ``features.0.weight`` and so on; False leaves the network as it begins, for a state that is loaded into it.

    Raises:
        ImportError: the package lpips is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold the convolutions of AlexNet.
    """

    network: ClassVar[str] = "AlexNet"
    net: ClassVar[str] = "alex"
    least: ClassVar[int] = 31  # its first convolution takes every fourth pixel, and two poolings of 3 x 3 follow

    def __init__(self, weights: str | Path | Literal[False]) -> None:
        super().__init__(weights)
