"""A rank that fails: the others do not wait for it for ever, and the run goes on from the last save, bit for bit."""

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from torch import distributed as dist

from latentcomp.checkpoints import Checkpoints
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
