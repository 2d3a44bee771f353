"""Signals: who asks a run to end is heard where something was saved, whenever it comes, and nobody is deaf where nothing is."""

import os
import signal
from pathlib import Path

import pytest
import torch

from latentcomp.checkpoints import Checkpoints
from latentcomp.evaluate.training import Budget, Machine, train
from latentcomp.signals import Interrupted, interruptible
from tests.faults.victims import DATA, assert_same_end, run
from tests.learners.contract import adam, made


def trained(machine: Machine, updates: int = 2, **more):
    """A short run."""
    model, learner = made("vq_ema")
    training = train(model, learner, DATA, adam(model, learner), Budget(updates, size=5, every=1), seed=3, machine=machine, **more)
    return training, model


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_without_checkpoints_signals_go_where_they_went_before(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        training, _ = trained(Machine(), watch=lambda step, look: os.kill(os.getpid(), number) if step == 1 else None)
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert len(training.curve) == 2


def test_a_signal_while_the_last_step_is_saved_is_heard(tmp_path):
    class Late(Checkpoints):
        """A signal comes after the last save."""

        def save(self, step, parts, score=None):
            """Saves."""
            written = super().save(step, parts, score)
            if step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            return written

    with pytest.raises(Interrupted, match="SIGUSR1 came after 2 of 2 batches; saved"):
        trained(Machine(checkpoints=Late(tmp_path)))
    (_, again), (_, whole) = trained(Machine(checkpoints=Checkpoints(tmp_path))), trained(Machine())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


class Handler:
    """What submitit has for a job's signals: it has the job queued again and exits, except for SIGTERM, which it passes over."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.heard = folder, []

    def __call__(self, number, frame) -> None:
        """Notes which checkpoints there are by then."""
        self.heard.append((number, [path.name for path in self.folder.glob("step-*")]))
        if number != signal.SIGTERM:
            raise SystemExit(-1)


Handler.__module__ = "submitit.core.job_environment"


@pytest.fixture
def submitit_s(tmp_path):
    """The process is a job's."""
    handler = Handler(tmp_path)
    before = {number: signal.signal(number, handler.__call__) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    yield handler
    for number, other in before.items():
        signal.signal(number, other)


def stopping(number: int, at: int = 1):
    """Sends the signal to this process at a step."""
    return lambda step, metrics: os.kill(os.getpid(), number) if step == at else None


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_under_submitit_a_run_saves_itself_before_its_job_is_queued_again(submitit_s, tmp_path, number):
    machine = Machine(checkpoints=Checkpoints(tmp_path))
    with pytest.raises(SystemExit) as caught:
        trained(machine, 4, watch=stopping(number))
    assert caught.value.code == -1, "submitit's, which has the job queued again, and not 75, after which nobody would"
    assert submitit_s.heard == [(number, ["step-000000001"])]
    assert signal.getsignal(number).__self__ is submitit_s
    (_, again), (_, whole) = trained(machine, 4), trained(Machine(), 4)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_under_submitit_sigterm_saves_a_run_that_goes_on(submitit_s, tmp_path):
    """SLURM sends it with a preemption, of which it tells by the other signal; a job that ended now would not be queued again."""
    machine = Machine(checkpoints=Checkpoints(tmp_path))
    training, _ = trained(machine, 4, watch=stopping(signal.SIGTERM))
    assert submitit_s.heard == [(signal.SIGTERM, ["step-000000001"])]
    assert [look["step"] for look in training.curve] == [1, 2, 3, 4]


def test_under_submitit_the_signal_that_says_more_counts(submitit_s, tmp_path):
    def both(step: int, metrics: object) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        trained(Machine(checkpoints=Checkpoints(tmp_path)), 4, watch=both)
    assert [number for number, _ in submitit_s.heard] == [signal.SIGUSR2]


def test_outside_training_submitit_hears_its_signals_itself(submitit_s):
    with interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGUSR2)
    assert caught.value.code == -1
    assert len(submitit_s.heard) == 2


def job(folder: str) -> list[int]:
    """A run whose process gets submitit's signal in its third step, once; the steps that were made in this process."""
    steps, mark = [], Path(folder, "signalled")

    def before(step: int) -> None:
        steps.append(step)
        if step == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGUSR2)

    run("gflownet_threshold", Path(folder), every=0, before=before)
    return steps


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_submitit_queues_a_job_again_that_goes_on_where_it_was_signalled(tmp_path, monkeypatch):
    """Submitit itself, with its executor for this machine: two processes, one after the other."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in ("run", "whole"):
        (tmp_path / name).mkdir()
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=60)
    assert executor.submit(job, str(tmp_path / "run")).result() == [4, 5, 6, 7, 8], "no save was due before the fourth step but for the signal"
    run("gflownet_threshold", tmp_path / "whole", every=0)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
