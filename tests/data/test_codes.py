"""Codes on disk: what is written is read, in batches, and what is damaged or foreign is refused by name."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from latentcomp.batch import Batch
from latentcomp.data.batches import Batches
from latentcomp.data.codes import CodeSet, fingerprint, write_codes

STAGE = nn.Linear(2, 3)
Z, C = torch.randint(1000, (23, 6)), torch.randint(7, (23,))


def written(folder, codes: int = 1000, conditions: bool = True, rows: int = 23) -> CodeSet:
    """Codes that are their own images."""
    parts = [Batch(z, c) for z, c in zip(Z.split(5), C.split(5), strict=True)]
    return write_codes(folder, STAGE, lambda x: x, parts, rows, (2, 3), codes, (lambda c: c.unsqueeze(1)) if conditions else None)


@pytest.mark.parametrize(("codes", "kind"), [(1000, np.uint16), (2**16, np.uint16), (2**16 + 1, np.int32)])
def test_what_is_written_is_read(tmp_path, codes, kind):
    made = written(tmp_path, codes)
    assert made.z.dtype == kind
    assert isinstance(made.z, np.memmap)
    rows = torch.tensor([3, 22, 3])
    batch = CodeSet(tmp_path)[rows]
    assert torch.equal(batch.z, Z[rows])
    assert torch.equal(batch.c, C[rows].unsqueeze(1))
    assert torch.equal(batch.index, rows)
    assert (len(made), made.grid, made.codes) == (23, (2, 3), codes)
    assert {p.name for p in tmp_path.iterdir()} == {"header.json", "z.npy", "r.npy"}


def test_largest_codes_survive(tmp_path):
    z = torch.tensor([[0, 65535]])
    made = write_codes(tmp_path, STAGE, lambda x: x, [Batch(z)], 1, (1, 2), 2**16)
    assert torch.equal(made[torch.tensor([0])].z, z)


def test_batches_come_in_the_order_of_batches_of_images(tmp_path):
    """The same permutation of (seed, epoch) that images in memory have, whatever was done before."""
    made = written(tmp_path, conditions=False)
    ours, theirs = made.batches(4, 13, seed=2), Batches(Z, 4, 13, seed=2)
    assert len(ours) == 13
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.z, b.x)
        assert torch.equal(a.index, b.index)
        assert a.c is None
    rest = list(ours.after(9))
    assert torch.equal(rest[0].z, list(ours)[9].z)
    with pytest.raises(ValueError, match="between 1 and n=23 of the rows, got size=24"):
        made.batches(24, 1)
    with pytest.raises(ValueError, match="got done=14"):
        ours.after(14)


def test_codes_belong_to_the_weights_that_made_them(tmp_path):
    made = written(tmp_path)
    made.check(STAGE)
    other = nn.Linear(2, 3)
    assert fingerprint(other) != fingerprint(STAGE)
    with pytest.raises(ValueError, match=rf"codes of a Linear with weights {fingerprint(STAGE)[:12]}, but this Linear has {fingerprint(other)[:12]}"):
        made.check(other)


def test_a_damaged_byte_is_found(tmp_path):
    written(tmp_path)
    path = tmp_path / "z.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"z.npy is damaged: its contents are not those"):
        CodeSet(tmp_path)
    assert len(CodeSet(tmp_path, verify=False)) == 23


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "z.npy").write_bytes((f / "z.npy").read_bytes()[:-8]), "z.npy cannot be read"),
        (lambda f: (f / "r.npy").unlink(), "r.npy cannot be read"),
        (lambda f: (f / "z.npy").write_bytes(b"PK"), "z.npy cannot be read"),
        (lambda f: np.save(f / "z.npy", np.zeros((23, 5), np.uint16)), r"z.npy holds uint16 of shape \(23, 5\), but its header says .* of \(23, 6\)"),
        (lambda f: np.save(f / "z.npy", np.zeros((23, 6))), "z.npy holds float64"),
        (lambda f: (f / "header.json").write_text("{"), "header.json cannot be read"),
        (lambda f: (f / "header.json").write_text('{"format": "other"}'), "header.json is no header of codes in the format"),
        (lambda f: (f / "header.json").write_text(json.dumps({"format": "latentcomp codes 1"})), "header.json lacks arrays, codes, grid"),
    ],
)
def test_what_is_no_set_of_codes_is_refused_by_name(tmp_path, damage, message):
    written(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        CodeSet(tmp_path)


def test_interrupted_writing_leaves_no_header(tmp_path):
    with pytest.raises(ValueError, match="24 rows were announced, but the batches hold 23"):
        written(tmp_path, rows=24)
    with pytest.raises(FileNotFoundError, match="holds no header.json"):
        CodeSet(tmp_path)
    with pytest.raises(ValueError, match="22 rows were announced, but the batches hold more"):
        written(tmp_path, rows=22)
    written(tmp_path)
    with pytest.raises(FileExistsError, match="holds codes already"):
        written(tmp_path)


def test_codes_of_another_grid_or_book_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"of a 2 x 2 grid have shape \(B, 4\), got \(5, 6\)"):
        write_codes(tmp_path, STAGE, lambda x: x, [Batch(Z[:5])], 5, (2, 2), 1000)
    with pytest.raises(ValueError, match=r"codes must lie in 0..9; got values from"):
        write_codes(tmp_path, STAGE, lambda x: x, [Batch(Z[:5])], 5, (2, 3), 10)
