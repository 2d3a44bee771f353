"""Damaged files, full and read-only disks, signals: what survives is the run from its last whole checkpoint on, and the user hears of it."""

import os
import signal
import subprocess
import warnings

import pytest

from latentcomp.checkpoints import Checkpoints, CheckpointWarning, read
from latentcomp.signals import INTERRUPTED
from tests.faults.victims import assert_same_end, forked, on_a_small_disk, run, small_disk, waited

pytestmark = pytest.mark.usefixtures("unchecked")
NAME = "gflownet_threshold"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert waited(forked(lambda: run(NAME, folder))) == 0
    return folder


def stop_at(last: int):
    """A hook that ends the process without warning before a step is logged."""

    def before(step: int) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return before


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_after_a_damaged_checkpoint_the_run_falls_back_says_so_and_ends_where_it_would_have(whole, tmp_path, damage):
    assert waited(forked(lambda: run(NAME, tmp_path, before=stop_at(6)))) == -signal.SIGKILL
    latest = Checkpoints(tmp_path / "checkpoints").paths()[0]
    file = latest / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data if damage == "flipped" else data[:-8])

    def again():
        with pytest.warns(CheckpointWarning, match=f"{latest.name} is damaged: weights.safetensors is not what was written"):
            run(NAME, tmp_path)

    assert waited(forked(again)) == 0
    assert_same_end(tmp_path, whole)
    read(latest if latest.exists() else Checkpoints(tmp_path / "checkpoints").paths()[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_lets_the_step_end_saves_and_exits_with_the_documented_code(whole, tmp_path, number):
    def before(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    assert waited(forked(lambda: run(NAME, tmp_path, every=0, before=before))) == INTERRUPTED
    assert Checkpoints(tmp_path / "checkpoints").latest().step == 3, "no save was due before the fourth step"
    assert waited(forked(lambda: run(NAME, tmp_path))) == 0
    assert_same_end(tmp_path, whole)


def test_a_full_disk_costs_saves_not_the_run(whole, tmp_path):
    """The disk of run, checkpoints and log is full between steps 3 and 6: the checkpoints before survive, the run goes on, and saves again when it can."""

    def on_disk():
        disk = tmp_path / "disk"
        small_disk(disk)
        warned, seen = [], []

        def before(step: int) -> None:
            filler = disk / "filler"
            if step == 3:
                with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:  # noqa: PT012
                    while True:
                        file.write(bytes(4096))
            if 3 < step < 7:
                seen.append([read(path).step for path in checkpoints.paths()])
            if step == 6:
                filler.unlink()

        checkpoints = Checkpoints(disk / "checkpoints")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(NAME, disk, before=before)
            warned = [str(warning.message) for warning in caught]
        assert sum("could not be written" in text and "checkpoints before it are whole" in text for text in warned) >= 3
        assert seen == [[2, 1]] * 3, "the checkpoints before the disk was full, whole"
        assert_same_end(disk, whole)
        assert Checkpoints(disk / "checkpoints").latest().step == 8

    on_a_small_disk(on_disk)


def test_a_read_only_folder_is_named_before_the_first_step(tmp_path):
    def on_disk():
        disk = tmp_path / "disk"
        small_disk(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        steps = []
        with pytest.raises(OSError, match="no checkpoint can be written to .*disk.*Read-only.*make this one writable"):
            run(NAME, disk, before=steps.append)
        assert not steps

    on_a_small_disk(on_disk)


def test_a_folder_that_becomes_read_only_costs_saves_not_the_run(tmp_path, whole):
    def on_disk():
        disk = tmp_path / "disk"
        small_disk(disk)

        def before(step: int) -> None:
            if step in (3, 7):
                subprocess.run(["mount", "-o", f"remount,{'ro' if step == 3 else 'rw'}", str(disk)], check=True)

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*log.csv cannot be written")
            with pytest.warns(CheckpointWarning, match="Read-only file system.*checkpoints before it are whole"):
                run(NAME, disk, before=before)
        assert_same_end(disk, whole)

    on_a_small_disk(on_disk)
