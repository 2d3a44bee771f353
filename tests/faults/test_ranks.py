"""A rank that fails: the others do not wait for it for ever, and the run goes on from the last save, bit for bit."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import distributed as dist

from experiments.job import Job, Result, procedure
from latentcomp import processes
from latentcomp.alarm import LOOKS, PeerFailed, Watch
from latentcomp.checkpoints import Checkpoints, read
from latentcomp.learners.learner import Learner
from latentcomp.locks import Locked
from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.phases.critic import FixedWeight, Ramp
from latentcomp.random_states import RandomStates
from latentcomp.signals import INTERRUPTED, Interrupted
from latentcomp.train import fit
from tests.faults.victims import assert_same_end, assert_same_state, forked, run, waited
from tests.learners.contract import CODEBOOKS, LEARNERS, adam, assert_same, batches, exchanging, made, state
from tests.processes.several import environment, free_port

pytestmark = pytest.mark.usefixtures("unchecked")
NAME = "vq_ema_restart"


def two(folder: Path, before: Callable[[int, int], None] = lambda rank, step: None, name: str = NAME) -> list[int]:
    """A run of two processes with a hook that knows its rank; their exit codes. What a process hears of the other's failure is kept, with the time."""
    store = folder / f"store-{time.monotonic_ns()}"
    folder.mkdir(exist_ok=True)

    def rank(number: int) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=2, timeout=timedelta(seconds=60))
        try:
            run(name, folder, before=partial(before, number))
        except PeerFailed as error:
            (folder / f"heard-{number}").write_text(f"{time.monotonic()} {error}")
            raise

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
    assert_same_state(*(torch.load(whole / name, weights_only=True) for name in ("end.pt", "end-1.pt")))


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


def test_a_folder_that_another_process_holds_stops_all_ranks_at_once(tmp_path):
    """The first is refused, and the other would wait for it."""
    held = Checkpoints(tmp_path / "run")

    def opened(rank: int) -> None:
        with pytest.raises(PeerFailed if rank else Locked, match=f"in use by another process .pid {os.getppid()} on"):
            Checkpoints(tmp_path / "run")

    assert both(opened, tmp_path) == [0, 0]
    assert held.paths() == []


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


STEP = 4  # after which the second process fails


class Before:
    """A weight of the critic's loss, with something that happens before it is computed."""

    def __init__(self, weight: FixedWeight, happens: Callable[[], None]) -> None:
        self.weight, self.happens, self.check = weight, happens, weight.check

    def __call__(self, *arguments: Any) -> Any:
        self.happens()
        return self.weight(*arguments)


class Fault:
    """A learner that speaks to the other process inside its losses, and fails in the second process alone, once, where one of them would then wait.

    Args:
        place: "lambda" or "norm" inside a loss, before the exchange of that name; "statistics" where the codebook learns; "body" in the loop around ``fit``.
        folder: which keeps when it was.
    """

    def __init__(self, place: str, folder: Path) -> None:
        self.place, self.mark = place, folder / "failed"

    def __call__(self) -> Learner:
        """The learner."""
        learner = exchanging(Ramp())
        if self.place == "lambda":
            weight = learner.critic.weight
            learner.critic.weight = Before(weight, lambda: self.fails(learner.step))
        elif self.place == "norm":
            next(m for m in learner.modules() if isinstance(m, SharedBatchNorm2d)).register_forward_pre_hook(lambda *_: self.fails(learner.step))
        elif self.place == "statistics":
            update = learner.update
            learner.update = lambda *arguments: self.fails(learner.step) or update(*arguments)
        return learner

    def before(self, rank: int, step: int) -> None:
        """The hook of the loop's body."""
        if self.place == "body":
            self.fails(step - 1)

    def fails(self, step: int) -> None:
        """There and then."""
        if processes.rank() == 1 and step == STEP and not self.mark.exists():
            self.mark.write_text(str(time.monotonic()))
            raise ValueError("a bad number")


@pytest.mark.parametrize("place", ["lambda", "statistics", *(pytest.param(place, marks=pytest.mark.slow) for place in ("norm", "body"))])
def test_a_rank_that_fails_where_the_other_waits_for_it_ends_it_in_seconds_and_the_run_goes_on(place, tmp_path, monkeypatch):
    """The other would wait for the 60 seconds of the process group; it stops within 20, with the failure's text, and both leave the last save as it was."""
    fault = Fault(place, tmp_path)
    monkeypatch.setitem(LEARNERS, "exchanging", fault)
    monkeypatch.setitem(CODEBOOKS, "exchanging", CODEBOOKS[NAME])
    assert two(tmp_path / "run", fault.before, "exchanging") == [1, 1]
    moment, text = (tmp_path / "run" / "heard-0").read_text().split(" ", 1)
    assert text == "rank 1 of 2 failed: ValueError: a bad number"
    assert not (tmp_path / "run" / "heard-1").exists(), "whose own error is the one that a user sees"
    assert float(moment) - float(fault.mark.read_text()) < 20
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest().step == STEP
    assert [two(tmp_path / name, name="exchanging") for name in ("run", "whole")] == [[0, 0]] * 2
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_batch_that_only_one_rank_cannot_use_stops_both_before_the_update(tmp_path):
    def run(rank: int) -> None:
        model, learner = made("vq_ema")
        data = batches(3)
        data[1] = data[1]._replace(x=data[1].x[:, :, :1]) if rank else data[1]
        going = fit(model, learner, data, adam(model, learner))
        next(going)
        before = state(model, learner)
        with pytest.raises(PeerFailed if rank == 0 else (ValueError, RuntimeError), match="rank 1 of 2 failed: .*Error: " if rank == 0 else "^(?!rank)"):
            next(going)
        assert_same(before, state(model, learner))

    assert both(run, tmp_path) == [0, 0]


@pytest.mark.parametrize("place", ["judging", pytest.param("saving", marks=pytest.mark.slow)])
def test_a_rank_that_fails_in_a_procedure_ends_the_other_wherever_that_is(place, tmp_path, monkeypatch):
    """Outside training, too: while the other judges, and speaks to nobody, or waits for it in a save, whose file is whole all the same."""
    monkeypatch.setattr("experiments.job.fabric", lambda config: None)
    monkeypatch.setattr("experiments.options.refuse", lambda config: None)

    @procedure
    def judged(job: Job) -> Result:
        checkpoints = Checkpoints(tmp_path / "run")
        if processes.rank() == 1:
            raise ValueError("a bad measure")
        if place == "saving":
            checkpoints.save(1, {"log": Numbers(False)})
        return [], {}

    def run(rank: int) -> None:
        start = time.monotonic()
        with pytest.raises(ValueError if rank else PeerFailed, match="a bad measure" if rank else "rank 1 of 2 failed: ValueError: a bad measure"):
            judged(OmegaConf.create({}), "row")
        assert time.monotonic() - start < 15, "the group itself waits for 20 seconds"

    assert both(run, tmp_path) == [0, 0]
    assert [read(path).step for path in Checkpoints(tmp_path / "run").paths()] == ([1] if place == "saving" else [])


def test_ranks_that_fail_alike_raise_their_own_errors_and_may_go_on_together(tmp_path):
    def run(rank: int) -> None:
        for number in range(2):
            with pytest.raises(ValueError, match=f"mine {rank}"), Watch():
                raise ValueError(f"mine {processes.stacked([rank])[rank][0]}")
            assert processes.stacked([rank + number]) == [[number], [number + 1]]

    assert both(run, tmp_path) == [0, 0]


def test_a_rank_that_is_asked_to_end_does_not_ring_the_alarm(tmp_path):
    def run(rank: int) -> None:
        with pytest.raises(Interrupted), Watch():
            raise Interrupted("saved")
        with Watch():
            time.sleep(2 * LOOKS)
            assert processes.stacked([rank]) == [[0], [1]]

    assert both(run, tmp_path) == [0, 0]


HAND = """
import os, sys, time
from torch import distributed as dist
from latentcomp import processes

dist.init_process_group("gloo")
with processes.Watch():
    processes.stacked([1])
    if dist.get_rank() == {victim}:
        time.sleep(1)
        raise ValueError("a bad number")
    processes.stacked([2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_started_by_hand_end_by_themselves_when_one_fails(victim):
    """Whole interpreters, up to their exit, of which the first keeps the store that the news travels through."""
    port, command = free_port(), [sys.executable, "-c", HAND.format(victim=victim)]
    started = [subprocess.Popen(command, env=os.environ | environment(rank, 2, port), stderr=subprocess.PIPE, text=True) for rank in range(2)]
    texts = [process.communicate(timeout=60)[1] for process in started]  # the group itself would wait for 30 minutes
    assert [process.returncode for process in started] == [1, 1]
    assert "ValueError: a bad number" in texts[victim]
    assert texts[1 - victim].rstrip().endswith(f"PeerFailed: rank {victim} of 2 failed: ValueError: a bad number")
