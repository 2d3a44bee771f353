"""A rank that fails: the others do not wait for it for ever, and the run goes on from the last save, bit for bit."""

import errno
import os
import signal
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from torch import distributed as dist

from latentcomp import processes
from latentcomp.checkpoints import Checkpoints
from latentcomp.random_states import RandomStates
from latentcomp.signals import INTERRUPTED
from tests.faults.victims import assert_same_end, forked, run, waited

pytestmark = pytest.mark.usefixtures("unchecked")
NAME = "vq_ema_restart"


def two(folder: Path, before: Callable[[int, int], None] = lambda rank, step: None) -> list[int]:
    """A run of two processes with a hook that knows its rank; their exit codes."""
    store = folder / f"store-{time.monotonic_ns()}"
    folder.mkdir(exist_ok=True)

    def rank(number: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2, timeout=timedelta(seconds=60))
        run(NAME, folder, before=partial(before, number))

    return [waited(process) for process in [forked(partial(rank, number)) for number in range(2)]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two processes to which nothing happened."""
    folder = tmp_path_factory.mktemp("two") / "whole"
    assert two(folder) == [0, 0]
    return folder


def test_two_processes_log_and_end_alike_in_the_folder_of_the_first(whole):
    lines = (whole / "log.csv").read_text().splitlines()
    assert [line for line in lines if ",m_loss," in line][-1].startswith("8,")
    assert len(set(lines)) == len(lines)


def both(function: Callable[[int], None], folder: Path) -> list[int]:
    """Calls the function with their ranks in two processes; their exit codes."""

    def rank(number: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=number, world_size=2, timeout=timedelta(seconds=20))
        function(number)

    return [waited(process) for process in [forked(partial(rank, number)) for number in range(2)]]


class Numbers:
    """A state, which one rank cannot write to its full disk."""

    def __init__(self, full: bool) -> None:
        self.full = full

    def state_dict(self):
        """A number."""
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return {"a": 1}

    def load_state_dict(self, state):
        """Nothing."""


def test_a_full_disk_of_the_first_rank_fails_the_save_of_both_and_they_stay_in_step(tmp_path):
    def save(rank: int) -> None:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not checkpoints.save(1, {"log": Numbers(rank == 0), "random": RandomStates()})
        assert processes.stacked([rank + 5]) == [[5], [6]]
        assert checkpoints.save(2, {"log": Numbers(False), "random": RandomStates()})

    assert both(save, tmp_path) == [0, 0]
    assert [path.name for path in Checkpoints(tmp_path / "checkpoints").paths()] == ["step-000000002"]


def test_ranks_that_find_different_checkpoints_are_refused_by_name(tmp_path):
    Checkpoints(tmp_path / "0").save(4, {"random": RandomStates()})

    def restore(rank: int) -> None:
        with pytest.raises(ValueError, match=f"in .*{rank}: process 0 that of step 4, process 1 none. Give a folder that all machines share"):
            Checkpoints(tmp_path / str(rank)).restore({"random": RandomStates()})

    assert both(restore, tmp_path) == [0, 0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_stops_the_other_and_the_run_goes_on(whole, tmp_path, victim):
    def before(rank: int, step: int) -> None:
        if (rank, step) == (victim, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    codes = two(tmp_path / "run", before)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 1, "an error, not a wait for ever"
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest().step in (4, 5)
    assert two(tmp_path / "run") == [0, 0]
    assert_same_end(tmp_path / "run", whole)


def test_a_signal_to_one_rank_stops_both_after_the_same_step_saved(whole, tmp_path):
    def before(rank: int, step: int) -> None:
        if (rank, step) == (1, 3):
            os.kill(os.getpid(), signal.SIGUSR1)

    assert two(tmp_path / "run", before) == [INTERRUPTED, INTERRUPTED]
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest().step == 3
    assert two(tmp_path / "run") == [0, 0]
    assert_same_end(tmp_path / "run", whole)
