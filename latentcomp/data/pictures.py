"""Picture files as bytes: whatever Pillow reads, in the channels that the model wants.

What is done to a file that is not already so, and nothing else:

* it is turned upright, as its EXIF orientation says; of several frames the first counts;
* 16-bit and floating-point grey values are brought to 8 bits over their type's whole range;
* what is transparent shows white;
* grey becomes colour by repeating it, colour becomes grey by ITU-R 601 luma (unless ``strict``: then both are refused);
* it is resized so that its shorter side has the wanted length, bicubically or bilinearly, with Pillow's antialiasing (labels: the nearest one).
"""

import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["picture", "labels"]
Filter = Literal["bicubic", "bilinear"]
NAMES = {1: "grey", 3: "colour"}


class BadPicture(ValueError):
    """A file that is no usable picture; the message says what is wrong with it, without its name."""


def formats() -> frozenset[str]:
    """The endings of the files that Pillow reads, such as ``.png``.

    Raises:
        ImportError: Pillow is not installed.
    """
    image = _pillow()
    return frozenset(ending for ending, name in image.registered_extensions().items() if name in image.OPEN)


def picture(path: Path, channels: int, strict: bool = False) -> "Image":
    """A picture, decoded, upright, in modes ``L`` or ``RGB``.

    Args:
        path: the file.
        channels: 1 for grey, 3 for colour.
        strict: refuse a picture of the other kind instead of converting it.

    Raises:
        BadPicture: it cannot be read whole, or is of the other kind where ``strict``.
    """
    image = _opaque(_decoded(path))
    has = 1 if image.mode == "L" else 3
    if strict and has != channels:
        raise BadPicture(f"it is {NAMES[has]}, and {NAMES[channels]} was asked for: convert it, or leave strict=False, which converts it here")
    return image.convert("L" if channels == 1 else "RGB")


def labels(path: Path) -> "Image":
    """A label map, one class number in each pixel: indices of a palette as they stand, or grey values.

    Raises:
        BadPicture: it cannot be read whole, or has colours without a palette.
    """
    image = _decoded(path)
    if image.mode not in ("L", "P", "1"):
        raise BadPicture(f"a label map holds one whole number in 0..255 a pixel (modes L or P), and this file is of mode {image.mode}: number its classes")
    return image.convert("L") if image.mode == "1" else image


def sized(image: "Image", size: tuple[int, int], kind: Kind = "picture", by: Filter = "bicubic") -> UInt8[Tensor, "C H W"]:
    """The pixels, at (height, width)."""
    resampling = _pillow().Resampling
    if image.size != size[::-1]:
        image = image.resize(size[::-1], resampling.NEAREST if kind == "labels" else resampling[by.upper()])
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(*size, -1).permute(2, 0, 1).contiguous()


def size_for(image: "Image", side: int) -> tuple[int, int]:
    """(height, width) with the shorter of them at ``side``, in the picture's proportions."""
    width, height = image.size
    scale = side / min(width, height)
    return max(side, round(height * scale)), max(side, round(width * scale))


def _decoded(path: Path) -> "Image":
    """All pixels of a file, upright; whatever Pillow says of a damaged one becomes one kind of error."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large photographs
            with Image.open(path) as file:
                file.load()
                return ImageOps.exif_transpose(file)
    except Exception as error:  # Pillow's plug-ins raise OSError, SyntaxError, ValueError, struct.error and others
        said = str(error).replace(f"'{path}'", "").strip(" :") or type(error).__name__
        raise BadPicture(f"it cannot be read ({said}): it is truncated, damaged or no picture, or a link to nothing") from error


def _opaque(image: "Image") -> "Image":
    """Modes ``L`` or ``RGB``: 8 bits, nothing transparent."""
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La")
        white = _pillow().new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("L" if grey else "RGB")
    return image.convert("L") if image.mode in ("1", "L") else image.convert("RGB")


def _eight_bits(image: "Image") -> "Image":
    """Grey values of 16 or 32 bits over 0..65535, or real ones over 0..1, as 0..255: Pillow's own conversion cuts them off at 255."""
    import numpy as np

    values = np.asarray(image, np.float64)
    values = values if image.mode == "F" else values / 65535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise BadPicture(f"its grey values of mode {image.mode} lie outside {'0..1' if image.mode == 'F' else '0..65535'}: rescale them")
    return _pillow().fromarray((values * 255).round().astype(np.uint8))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading pictures needs the package Pillow: python -m pip install 'latentcomp[images]'") from error
    return Image
