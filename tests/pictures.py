"""Folders of drawn pictures, good and bad: for tests of what reads them."""

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """(H, W, 3) bytes: a coloured disc on a slope, of random colours and place."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:height, :width]
    ground = rng.integers(0, 200, 3) + (across / width)[..., None] * rng.integers(0, 55, 3)
    disc = (down - rng.integers(6, height - 6)) ** 2 + (across - rng.integers(6, width - 6)) ** 2 < 30
    return np.where(disc[..., None], rng.integers(0, 256, 3), ground).astype(np.uint8)


def draw(path: Path, seed: int, mode: str = "RGB", **size: int) -> Path:
    """One picture, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, **size)).convert(mode).save(path)
    return path


def folder(root: Path, n: int = 12, ending: str = "png", **size: int) -> Path:
    """n pictures, 00 to n - 1."""
    for i in range(n):
        draw(root / f"{i:02d}.{ending}", i, **size)
    return root


def truncated(path: Path, keep: float = 0.5) -> Path:
    """Cuts a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path
