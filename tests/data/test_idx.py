"""IDX files against bytes written by hand; every way in which a file can be wrong."""

import gzip
import struct

import pytest
import torch

from latentcomp.data.idx import read


def idx(*shape: int, kind: int = 8, values: bytes | None = None) -> bytes:
    """An IDX file as the format's description has it."""
    n = int(torch.tensor(shape).prod())
    body = bytes(i % 256 for i in range(n)) if values is None else values
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + body


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(3, 2, 4), (5,), (0, 28, 28)])
def test_values_and_shape_are_those_written(tmp_path, shape, packed):
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(idx(*shape), mtime=0) if packed else idx(*shape))
    array = read(path, len(shape))
    assert array.dtype == torch.uint8
    assert array.shape == shape
    assert array.flatten().tolist() == [i % 256 for i in range(array.numel())]


def test_the_name_with_or_without_gz_will_do(tmp_path):
    (tmp_path / "plain").write_bytes(idx(2))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(2), mtime=0))
    assert read(tmp_path / "plain.gz", 1).tolist() == read(tmp_path / "packed", 1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"PK\x03\x04 a zip", "is no IDX file: it begins with 504b0304"),
        (idx(5), "holds labels of type 8; wanted are 3 dimension"),
        (idx(2, 3, 3, kind=13, values=bytes(72)), "holds images of type 13"),
        (idx(2, 3, 3)[:-1], r"should hold 34 bytes for shape \(2, 3, 3\), but has 33: it is truncated"),
        (idx(2, 3, 3) + b"x", "should hold 34 bytes .* but has 35"),
        (idx(2, 3, 3)[:9], "is truncated or damaged"),
        (gzip.compress(idx(20, 30, 30), mtime=0)[:-20], "is a damaged gzip file"),
        (gzip.compress(idx(2, 3, 3), mtime=0)[:-6] + b"abcdef", "is a damaged gzip file"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(path, 3)
    assert str(path) in str(error.value)


def test_a_missing_file_says_what_lies_there(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"there is neither .*images nor images.gz beside it; in .*: other"):
        read(tmp_path / "images", 3)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read(tmp_path / "nowhere" / "images", 3)
