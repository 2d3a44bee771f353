"""The IDX format of the MNIST family: a header of big-endian whole numbers, then bytes.

Two zero bytes, one for the type (8: unsigned byte), one for the number of dimensions; four bytes for each dimension; the values (LeCun, Cortes and Burges,
1998). Files may be compressed with gzip. Everything is checked before it is believed.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

UNSIGNED_BYTE = 8


def read(path: Path, dimensions: int) -> UInt8[Tensor, "..."]:
    """The array of an IDX file of unsigned bytes, plain or compressed.

    Args:
        path: the file; where it is missing, the same name with or without ``.gz`` is tried.
        dimensions: how many are expected, 3 for images, 1 for labels.

    Raises:
        FileNotFoundError: neither name exists; lists what lies in the folder.
        ValueError: the file is no IDX file of this kind, is truncated, or has bytes too many.
    """
    path = _existing(path)
    data = _bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path} is no IDX file: it begins with {data[:4].hex() or 'nothing'}, not with two zero bytes. Download it again")
    kind, rank = data[2], data[3]
    if kind != UNSIGNED_BYTE or rank != dimensions:
        what = {1: "labels", 3: "images"}.get(rank, f"arrays of {rank} dimensions")
        raise ValueError(f"{path} holds {what} of type {kind}; wanted are {dimensions} dimension(s) of unsigned bytes (type 8): is it the right file?")
    header = 4 + 4 * rank
    shape = struct.unpack(f">{rank}I", data[4:header]) if len(data) >= header else ()
    if len(data) != header + math.prod(shape) or not shape:
        raise ValueError(
            f"{path} should hold {header + math.prod(shape):,} bytes for shape {shape}, but has {len(data):,}: it is truncated or damaged. Download it again"
        )
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).view(shape) if math.prod(shape) else torch.empty(shape, dtype=torch.uint8)


def _existing(path: Path) -> Path:
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    for candidate in (path, other):
        if candidate.is_file():
            return candidate
    there = ", ".join(sorted(p.name for p in path.parent.iterdir())[:8]) if path.parent.is_dir() else "no such folder"
    raise FileNotFoundError(f"there is neither {path} nor {other.name} beside it; in {path.parent}: {there or 'nothing'}")


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}): it is truncated or was changed. Download it again") from error
