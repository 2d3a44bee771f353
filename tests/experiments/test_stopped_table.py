"""A whole table that is asked to end: its runs save themselves, it says so by its exit code, and the same command goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from experiments import pool, settings
from experiments.reproduce import parsed, reproduce
from latentcomp.checkpoints import Checkpoints
from latentcomp.evaluate.run import Run
from latentcomp.signals import INTERRUPTED
from tests.faults.victims import forked, waited

pytestmark = pytest.mark.usefixtures("unchecked")
ROWS, UPDATES = ("vq_ema", "vq_gradient", "gumbel_softmax"), 200


@pytest.fixture
def table(monkeypatch, tmp_path) -> Path:
    """Three rows of the digits that two processes make, forked since imports take seconds; a run notes the step that it goes on from."""
    spec = settings.table("digits") | {"rows": list(ROWS)}
    restored = Run.restored

    def noted(self: Run) -> int:
        step = restored(self)
        (tmp_path / f"from-{os.getpid()}-{time.monotonic_ns()}").write_text(str(step))
        return step

    monkeypatch.setattr(settings, "table", lambda name: spec)
    monkeypatch.setattr(Run, "restored", noted)
    monkeypatch.setattr(pool, "METHOD", "fork")
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 2)
    monkeypatch.setattr("experiments.reproduce.write_report", lambda folder: None)
    return tmp_path


def command(folder: Path) -> int:
    """The process of the command."""
    small = ("budget.every=20", f"budget.updates={UPDATES}", "budget.prior_updates=2")
    return forked(lambda: reproduce(parsed(["digits", "budget=smoke", "seeds=1", f"outputs={folder}", *small])))


def begun(folder: Path) -> list[int]:
    """The steps that runs went on from, until now."""
    return [int(path.read_text() or 0) for path in sorted(folder.glob("from-*"))]


def lives(process: int) -> bool:
    """Whether it runs: who has ended may still be listed, where nobody asks for how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow), pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_to_the_command_alone_saves_all_its_runs_and_the_same_command_goes_on(number, table):
    unfinished = table / "reproduce" / "digits-smoke" / "unfinished"
    first = command(table)
    wait_for(lambda: len({path.parents[2] for path in unfinished.glob("*/states/*/step-*")}) == 2)
    os.kill(first, number)
    assert waited(first) == INTERRUPTED
    saved = sorted(Checkpoints(path).latest().step for path in unfinished.glob("*/states/*"))
    assert len(saved) == 2, "the third row did not begin"
    assert all(step < UPDATES for step in saved)
    assert begun(table) == [0, 0]
    assert waited(command(table)) == 0
    assert sorted(begun(table)[2:]) == sorted([0, *saved])
    records = json.loads((table / "reproduce" / "digits-smoke" / "results.json").read_text())
    assert {record["row"] for record in records} == set(ROWS)
    assert not list(unfinished.glob("*"))


@pytest.mark.slow
def test_a_signal_to_every_process_at_once_is_the_same(table):
    """As Ctrl-C in a terminal, or a batch system, sends it: to the command, its runs, and the process that counts their steps."""
    unfinished = table / "reproduce" / "digits-smoke" / "unfinished"

    def grouped() -> None:
        os.setpgid(0, 0)
        reproduce(parsed(["digits", "budget=smoke", "seeds=1", f"outputs={table}", "budget.every=20", f"budget.updates={UPDATES}"]))

    first = forked(grouped)
    wait_for(lambda: len({path.parents[2] for path in unfinished.glob("*/states/*/step-*")}) == 2)
    os.killpg(first, signal.SIGTERM)
    assert waited(first) == INTERRUPTED
    assert len([Checkpoints(path).latest().step for path in unfinished.glob("*/states/*")]) == 2


def test_runs_whose_command_is_killed_save_themselves_and_end(table):
    """Nobody is left to end them, and they would wait for their next job for ever."""
    unfinished = table / "reproduce" / "digits-smoke" / "unfinished"
    first = command(table)
    wait_for(lambda: len({path.parents[2] for path in unfinished.glob("*/states/*/step-*")}) == 2)
    runs = [int(path.name.split("-")[1]) for path in table.glob("from-*")]
    assert len(runs) == 2
    assert all(lives(run) for run in runs)
    os.kill(first, signal.SIGKILL)
    assert waited(first) == -signal.SIGKILL
    wait_for(lambda: not any(lives(run) for run in runs))
    assert all(Checkpoints(path).latest().step < UPDATES for path in unfinished.glob("*/states/*"))
