"""States on disk: whole or not at all, read without executing anything."""

import pickle

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


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a checkpoint"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"model": nn.Linear(2, 3)})
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
