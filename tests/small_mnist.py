"""A folder like MNIST's, of a few drawn images: for tests of what reads one."""

import struct
from pathlib import Path

import torch
from torch import Tensor


def images(n: int, seed: int) -> Tensor:
    """``(n, 28, 28)`` bytes: a bright bar on black, of random place and width, across or down."""
    generator = torch.Generator().manual_seed(seed)
    place, width, down = (torch.randint(low, high, (n, 1), generator=generator) for low, high in ((4, 20), (2, 6), (0, 2)))
    line = torch.arange(28)
    bar = ((line >= place) & (line < place + width)).unsqueeze(1).expand(n, 28, 28)
    return torch.where(down.unsqueeze(-1) == 1, bar, bar.mT).to(torch.uint8) * 255


def write(folder: Path, train: int = 80, test: int = 10) -> Path:
    """Both files, uncompressed."""
    for name, n in (("train", train), ("t10k", test)):
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images(n, n).numpy().tobytes())
    return folder
