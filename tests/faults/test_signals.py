"""Signals: who asks a run to end is heard where something was saved, whenever it comes, and nobody is deaf where nothing is."""

import os
import signal

import pytest
import torch

from latentcomp.checkpoints import Checkpoints
from latentcomp.evaluate.training import Budget, Machine, train
from latentcomp.signals import Interrupted
from tests.faults.victims import DATA
from tests.learners.contract import adam, made


def trained(machine: Machine, updates: int = 2, **more):
    """A short run."""
    model, learner = made("vq_ema")
    training = train(model, learner, DATA, adam(model, learner), Budget(updates, size=5, every=1), seed=3, machine=machine, **more)
    return training, model


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
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
