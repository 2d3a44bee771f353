"""A folder that another process holds: refused by name, free as soon as that process is gone, whoever outlives it."""

import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from latentcomp import locks
from latentcomp.checkpoints import Checkpoints
from latentcomp.locks import Locked, LockWarning, hold, holding
from tests.faults.victims import forked, waited

pytestmark = pytest.mark.usefixtures("unchecked")


def holder(folder: Path, also: Callable[[], object] = lambda: None) -> int:
    """A process that opens the checkpoints of a folder and stays until it is killed."""

    def stay() -> None:
        checkpoints = Checkpoints(folder)
        also()
        (folder / "ready").touch()
        time.sleep(60)
        del checkpoints

    process = forked(stay)
    wait_for(folder / "ready")
    return process


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.005)


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    assert waited(process) == -signal.SIGKILL


def test_a_second_process_is_refused_and_touches_nothing_until_the_first_is_gone(tmp_path):
    process = holder(tmp_path)
    unfinished = tmp_path / ".step-000000002.part"
    unfinished.mkdir()
    with pytest.raises(Locked, match=rf"{tmp_path} is in use by another process \(pid {process} on {re.escape(socket.gethostname())}\).* give another folder"):
        Checkpoints(tmp_path)
    assert unfinished.exists(), "it is the other's, who is about to rename it"
    end(process)
    Checkpoints(tmp_path)
    assert not unfinished.exists(), "which nobody will finish"


def test_one_process_may_open_a_folder_several_times_and_lets_it_go_with_the_last(tmp_path):
    def tries() -> None:
        hold(tmp_path)

    first, second = Checkpoints(tmp_path), Checkpoints(tmp_path)
    del first
    assert waited(forked(tries)) == 1
    del second
    assert waited(forked(tries)) == 0


def test_a_forked_child_neither_has_its_parent_s_lock_nor_gives_it_away(tmp_path):
    checkpoints = Checkpoints(tmp_path)

    def child() -> None:
        with pytest.raises(Locked, match=f"pid {os.getppid()} on"):
            hold(tmp_path)

    assert waited(forked(child)) == 0
    assert waited(forked(child)) == 0, "the end of the first has not freed it"
    del checkpoints


def test_a_worker_that_outlives_a_killed_run_does_not_keep_its_folder(tmp_path):
    def worker() -> None:
        (tmp_path / "worker").write_text(str(forked(lambda: time.sleep(60))))

    end(holder(tmp_path, worker))
    lives = int((tmp_path / "worker").read_text())
    os.kill(lives, 0)
    Checkpoints(tmp_path)
    os.kill(lives, signal.SIGKILL)


def test_who_waits_gets_it_when_the_other_has_ended(tmp_path):
    process = holder(tmp_path)

    def waits() -> None:
        (tmp_path / "waits").touch()
        with holding(tmp_path, wait=True):
            (tmp_path / "has").touch()

    second = forked(waits)
    wait_for(tmp_path / "waits")
    time.sleep(0.05)
    assert not (tmp_path / "has").exists()
    end(process)
    assert waited(second) == 0
    assert (tmp_path / "has").exists()
    hold(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, number):
    def flock(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(LockWarning, match=rf"cannot be locked \({os.strerror(number)}\): nothing keeps a second process out of it"):
        checkpoints = Checkpoints(tmp_path)
    assert checkpoints.paths() == []


def test_a_file_system_that_locks_only_what_is_open_for_writing_is_locked(tmp_path, monkeypatch):
    """As NFS does."""
    flock = fcntl.flock

    def strict(descriptor: int, how: int) -> None:
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", strict)
    lock = hold(tmp_path)
    assert waited(forked(lambda: hold(tmp_path))) == 1
    del lock
    assert waited(forked(lambda: hold(tmp_path))) == 0


def test_a_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    with pytest.warns(LockWarning, match="this system has no flock"):
        hold(tmp_path)


def test_a_lock_on_a_file_that_was_deleted_meanwhile_is_none(tmp_path, monkeypatch):
    """A run that is done deletes its folder; who has opened the file before would hold a lock that nobody else sees."""
    flock, seen = fcntl.flock, []

    def slow(descriptor: int, how: int) -> None:
        if not seen:
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
        seen.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    lock = hold(tmp_path)
    assert len(seen) == 2
    assert waited(forked(lambda: hold(tmp_path))) == 1
    del lock
