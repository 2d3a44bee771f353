"""Checkpoints in a folder: whole, checked, the last and the best kept; generators and signals."""

import errno
import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from latentcomp.checkpoints import Checkpoints, CheckpointWarning, DamagedCheckpoint, OtherFormat, _digest, read
from latentcomp.random_states import RandomStates
from latentcomp.signals import INTERRUPTED, Interrupted, Signals


class Numbers:
    """A state of plain data."""

    def __init__(self, **values) -> None:
        self.values = values

    def state_dict(self):
        """The values."""
        return self.values

    def load_state_dict(self, state):
        """Takes them."""
        self.values = state


def parts(value: float = 0.0) -> dict:
    """A module with tied weights and a buffer of whole numbers, and plain data."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    nn.init.constant_(module[0].bias, value)
    return {"model": module, "rest": Numbers(value=value, nested=[{"a": torch.arange(3)}, (1, "b", None)])}


def test_the_last_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step, score in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 1.5), (6, None)):
        assert checkpoints.save(step, parts(step), score)
    assert [path.name for path in checkpoints.paths()] == ["step-000000006", "step-000000005", "step-000000002"]
    assert checkpoints.best() == tmp_path / "step-000000002"
    other = parts()
    found = checkpoints.restore(other)
    assert (found.step, found.score) == (6, None)
    assert float(other["model"][0].bias[0].detach()) == other["rest"].values["value"] == 6.0
    assert other["model"][0].weight is other["model"][2].weight
    assert other["rest"].values["nested"][0]["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("odd", [float("nan"), -float("inf")])
def test_a_score_that_is_no_number_is_never_the_best(tmp_path, odd):
    checkpoints = Checkpoints(tmp_path)
    for step, score in ((1, odd), (2, 1.0), (3, 2.0), (4, odd), (5, 3.0)):
        checkpoints.save(step, parts(step), score)
    assert checkpoints.best() == tmp_path / "step-000000002"
    assert [read(path).step for path in checkpoints.paths()] == [5, 4, 2]


@pytest.mark.parametrize("steps", [(5, 6), (8, 9), (9, 10)])
def test_after_a_fall_back_what_is_saved_is_kept_and_nothing_damaged_takes_its_place(tmp_path, steps):
    for step, score in ((4, 1.0), (7, 0.5), (8, None)):
        Checkpoints(tmp_path, keep=3).save(step, parts(step), score)
    for step in (7, 8):
        flipped(tmp_path / f"step-{step:09d}" / "weights.safetensors", 0.9)
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(CheckpointWarning, match="is damaged"):
        assert checkpoints.restore(parts()).step == 4
    for step in steps:
        assert checkpoints.save(step, parts(step), 2.0)
    assert [read(path).step for path in checkpoints.paths()] == [*steps[::-1], 4]
    other = parts()
    assert Checkpoints(tmp_path).restore(other).step == other["rest"].values["value"] == steps[-1]
    assert {path.name for path in tmp_path.glob("damaged-*")} == {"damaged-step-000000007", "damaged-step-000000008"}


def test_what_could_not_be_read_for_a_while_is_not_lost(tmp_path, monkeypatch):
    """A network's file system may fail a read and be well again: the run falls back and goes on, and what it took for damaged lies aside, whole."""
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, parts(float(step)))
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("latentcomp.checkpoints._digest", fails_on("step-000000002"))
        with pytest.warns(CheckpointWarning, match=r"weights.safetensors cannot be read \(Input/output error\).*kept as damaged-step-000000002"):
            assert checkpoints.restore(parts()).step == 1
    for step in (2, 3):
        assert checkpoints.save(step, parts(step))
    assert read(tmp_path / "damaged-step-000000002").step == 2


def fails_on(name):
    """A digest that cannot read one checkpoint."""

    def digest(path):
        if path.parent.name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return _digest(path)

    return digest


def test_a_checkpoint_of_another_format_stops_the_run_and_stays(tmp_path, monkeypatch):
    Checkpoints(tmp_path).save(1, parts(1.0))
    monkeypatch.setattr("latentcomp.checkpoints.FORMAT", 2)
    Checkpoints(tmp_path)
    with pytest.raises(OtherFormat, match=r"step-000000001 has format 1, and this version reads 2: read it with the version that wrote it"):
        Checkpoints(tmp_path).restore(parts())
    monkeypatch.setattr("latentcomp.checkpoints.FORMAT", 1)
    assert read(tmp_path / "step-000000001").step == 1


def test_anyone_can_read_the_weights(tmp_path):
    Checkpoints(tmp_path).save(1, parts(4.0))
    assert load_file(tmp_path / "step-000000001" / "weights.safetensors")["model/0.bias"].tolist() == [4.0, 4.0]


def flipped(path, place: float = 0.5) -> None:
    """Changes one bit."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit in the weights": lambda path: flipped(path / "weights.safetensors", 0.9),
    "a flipped bit in the state": lambda path: flipped(path / "state.pt"),
    "a truncated state": lambda path: os.truncate(path / "state.pt", 100),
    "truncated weights": lambda path: os.truncate(path / "weights.safetensors", 50),
    "empty weights": lambda path: os.truncate(path / "weights.safetensors", 0),
    "no weights": lambda path: (path / "weights.safetensors").unlink(),
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "a truncated manifest": lambda path: os.truncate(path / "manifest.json", 30),
    "a changed step": lambda path: (path / "manifest.json").write_text((path / "manifest.json").read_text().replace('"step": 2', '"step": 7')),
    "a folder of nothing": lambda path: [file.unlink() for file in path.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_is_used(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, parts(step))
    DAMAGES[damage](tmp_path / "step-000000002")
    with pytest.raises(DamagedCheckpoint, match=r"step-000000002 is damaged"):
        read(tmp_path / "step-000000002")
    other = parts()
    with pytest.warns(CheckpointWarning, match=r"step-000000002 is damaged: .*The one before it is used"):
        assert checkpoints.restore(other).step == 1
    assert other["rest"].values["value"] == 1
    DAMAGES[damage if damage != "a changed step" else "no manifest"](tmp_path / "step-000000001")
    with pytest.warns(CheckpointWarning), pytest.raises(DamagedCheckpoint, match="all checkpoints in .* are damaged: .*Delete them"):
        checkpoints.restore(other)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt", "manifest.json"])
def test_any_bit_that_changes_is_seen(tmp_path, name):
    Checkpoints(tmp_path).save(1, parts(1.0))
    path = tmp_path / "step-000000001"
    whole = (path / name).read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        data = bytearray(whole)
        data[place] ^= 1 << int(place) % 8
        (path / name).write_bytes(data)
        if name == "manifest.json" and _same_json(data, whole):
            continue  # white space
        with pytest.raises(DamagedCheckpoint):
            read(path)
    (path / name).write_bytes(whole)
    assert read(path).step == 1


def _same_json(a: bytes, b: bytes) -> bool:
    try:
        return json.loads(a) == json.loads(b)
    except ValueError:
        return False


class Trap:
    """What a stranger might send."""

    fired = False

    def __reduce__(self):
        return (setattr, (Trap, "fired", True))


def test_a_booby_trapped_state_is_refused_even_with_the_right_checksums_and_does_not_run(tmp_path):
    from latentcomp.checkpoints import _checksum, _digest

    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, parts(step))
    path = tmp_path / "step-000000002"
    torch.save({"model": {}, "rest": Trap()}, path / "state.pt")
    body = json.loads((path / "manifest.json").read_text())["body"]
    body["files"]["state.pt"] = _digest(path / "state.pt")
    (path / "manifest.json").write_text(json.dumps({"body": body, "sha256": _checksum(body)}))
    with pytest.warns(CheckpointWarning, match="step-000000002 cannot be read without executing code"):
        assert checkpoints.restore(parts()).step == 1
    assert not Trap.fired


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match=r"rest\.a\[1\]\.b is of type float64, which a checkpoint would not read again"):
        checkpoints.save(1, {"rest": Numbers(a=[0, {"b": np.float64(1)}])})
    assert checkpoints.paths() == []


def test_another_run_s_checkpoint_is_refused(tmp_path):
    Checkpoints(tmp_path, about={"lr": 0.1, "seed": 3}).save(1, parts())
    with pytest.raises(ValueError, match=r"is of another run: lr was 0\.1 and is 0\.2\. Give another folder"):
        Checkpoints(tmp_path, about={"lr": 0.2, "seed": 3}).restore(parts())
    with pytest.raises(ValueError, match=r"holds \['model', 'rest'\], but \['rest'\]"):
        Checkpoints(tmp_path, about={"lr": 0.1, "seed": 3}).restore({"rest": Numbers()})
    with pytest.raises(ValueError, match="at least two"):
        Checkpoints(tmp_path, keep=1)


@pytest.mark.parametrize(("saved", "wanted"), [(torch.float64, torch.float32), (torch.float32, torch.float64), (torch.bfloat16, torch.float32)])
def test_another_precision_is_refused_by_name_and_nothing_is_given(tmp_path, saved, wanted):
    old, new = parts(1.0), parts(2.0)
    old["model"].to(saved), new["model"].to(wanted)
    Checkpoints(tmp_path).save(1, old)
    pattern = rf"step-000000001 holds model\.0\.weight as {saved}, and here it is {wanted}: build the run in the precision .* or begin anew"
    with pytest.raises(ValueError, match=pattern):
        Checkpoints(tmp_path).restore({"rest": new["rest"], "model": new["model"]})
    assert new["rest"].values["value"] == 2.0
    assert float(new["model"][0].bias[0].detach()) == 2.0


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="no checkpoint can be written to .*file.*: give another folder"):
        Checkpoints(tmp_path / "file")


def test_what_a_crash_left_is_cleared_away(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, parts())
    (tmp_path / ".step-000000002.part").mkdir()
    (tmp_path / ".step-000000002.part" / "weights.safetensors").write_text("half")
    assert Checkpoints(tmp_path).restore(parts()).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "step-000000001"]


def test_a_safetensors_file_of_a_stranger_is_no_checkpoint(tmp_path):
    (tmp_path / "step-000000001").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "step-000000001" / "weights.safetensors")
    with pytest.warns(CheckpointWarning), pytest.raises(DamagedCheckpoint, match="manifest.json cannot be read"):
        Checkpoints(tmp_path).latest()


def drawn() -> list[float]:
    """From every generator, the second of a pair of normal numbers among them."""
    return [float(torch.rand(())), random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal()]


@pytest.mark.usefixtures("unchecked")  # beartype looks at random items of lists, by Python's generator
@pytest.mark.parametrize("odd", [False, True])
def test_generators_go_on_where_they_stopped(odd, tmp_path):
    before = (random.getstate(), np.random.get_state())
    try:
        with torch.random.fork_rng():
            if odd:
                random.gauss(0, 1), np.random.standard_normal()
            checkpoints = Checkpoints(tmp_path)
            checkpoints.save(1, {"random": RandomStates()})
            expected = [drawn(), drawn()]
            random.seed(0), np.random.seed(0), torch.manual_seed(0)
            checkpoints.restore({"random": RandomStates()})
            assert [drawn(), drawn()] == expected
    finally:
        random.setstate(before[0]), np.random.set_state(before[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_heard_and_given_back(number):
    handler = signal.getsignal(number)
    with Signals() as signals:
        assert not signals.asked()
        os.kill(os.getpid(), number)
        assert signals.asked()
        assert signals.reason == f"{number.name} came"
    assert signal.getsignal(number) is handler
    assert Interrupted("x").code == INTERRUPTED == 75


def test_a_second_interrupt_ends_at_once():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
