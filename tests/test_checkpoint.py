"""States on disk: whole or not at all, read without executing anything."""

import os
import pickle
import struct

import pytest
import torch
from torch import nn

from latentcomp import checkpoint


def test_a_saved_state_is_restored(tmp_path):
    model, other = nn.Linear(2, 3), nn.Linear(2, 3)
    checkpoint.save(tmp_path / "a" / "state.pt", {"model": model})
    checkpoint.load(tmp_path / "a" / "state.pt", {"model": other})
    assert torch.equal(model.weight, other.weight)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["state.pt"]


def test_a_write_that_fails_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"model": nn.Linear(2, 3)})
    before = path.read_bytes()

    def half(data, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, {"model": nn.Linear(2, 3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_names_of_the_folder_are_flushed_after_the_file(tmp_path, monkeypatch):
    """A file that was moved to its name is not there after a power cut until the folder is on the disk, too."""
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")) or fsync(number))
    checkpoint.save(tmp_path / "state.pt", {"model": nn.Linear(2, 3)})
    assert flushed == [str(tmp_path / "state.pt.part"), str(tmp_path)]


def test_what_would_not_be_read_again_is_not_written(tmp_path):
    class Odd(nn.Linear):
        """Its state holds a set."""

        def get_extra_state(self) -> set[int]:
            """One."""
            return {1}

    with pytest.raises(TypeError, match="model._extra_state is of type set, which a checkpoint would not read again"):
        checkpoint.save(tmp_path / "state.pt", {"model": Odd(2, 3)})
    assert not list(tmp_path.iterdir())


def flipped(data: bytes) -> bytes:
    """One bit of the first weight is another."""
    at = data.index(struct.pack("<f", 0.75))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a checkpoint", flipped])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path, model = tmp_path / "state.pt", nn.Linear(2, 3)
    nn.init.constant_(model.weight, 0.75)
    checkpoint.save(path, {"model": model})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"state\.pt cannot be read"):
        checkpoint.load(path, {"model": nn.Linear(2, 3)})


class Trap:
    """What a stranger might send."""

    fired = False

    def __reduce__(self):
        return (setattr, (Trap, "fired", True))


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"model": Trap()}, path)
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load(path, {"model": nn.Linear(2, 3)})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert not Trap.fired


def test_other_parts_than_those_saved_are_named(tmp_path):
    checkpoint.save(tmp_path / "state.pt", {"model": nn.Linear(2, 3)})
    with pytest.raises(ValueError, match=r"holds \['model'\], but \['learner'\]"):
        checkpoint.load(tmp_path / "state.pt", {"learner": nn.Linear(2, 3)})
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt", {"model": nn.Linear(2, 3)})
