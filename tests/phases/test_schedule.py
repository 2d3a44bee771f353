"""Schedules as sequences of E and M, and the running mean of a threshold against a recursion by hand."""

import math

import pytest
import torch

from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.phases.schedule import BOTH, E, EachBatch, M, OnlyE, Period, Threshold, Together
from latentcomp.train import fit
from tests.learners.contract import adam, batches
from tests.scenarios import posterior, tiny_model


@pytest.mark.parametrize(
    ("schedule", "word"),
    [
        (EachBatch(), [(E, M)] * 7),
        (Together(), [(BOTH,)] * 7),
        (OnlyE(), [(E,)] * 7),
        (Period(), [(E,), (M,)] * 3 + [(E,)]),
        (Period(2, 1), [(E,), (E,), (M,)] * 2 + [(E,)]),
        (Period(2, 1, first=M), [(M,), (E,), (E,)] * 2 + [(M,)]),
        (Period(0, 1), [(M,)] * 7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_updates_are_a_function_of_the_step(schedule, word):
    assert [tuple(schedule.updates(step)) for step in range(7)] == word
    schedule.update({"e_loss": torch.zeros(3)})
    assert [tuple(schedule.updates(step)) for step in range(7)] == word
    assert not schedule.reads_loss


def test_a_period_of_nothing_and_an_unknown_first_phase_are_refused():
    with pytest.raises(ValueError, match='first must be "E" or "M", got \'e\''):
        Period(first="e")
    for lengths in ((0, 0), (-1, 2)):
        with pytest.raises(ValueError, match=f"got e_steps={lengths[0]} and m_steps={lengths[1]}"):
            Period(*lengths)


def run(schedule: Threshold, losses: list[float]) -> str:
    """The phases that follow from a sequence of losses: an E-step reports the next one, an M-step none."""
    word, left = "", list(losses)
    while left:
        (phase,) = schedule.updates(len(word))
        schedule.update({"e_loss": torch.tensor([left[0] - 1, left[0] + 1])} if phase == E else {})
        left = left[1:] if phase == E else left
        word += phase
    return word


def test_a_threshold_asks_for_an_m_step_when_the_running_mean_is_below_it():
    schedule, losses = Threshold(2.0, patience=100, decay=0.75), [8.0, 4.0, 0.0, 0.0, 0.0, 0.0, 1.0, 9.0, 0.0]
    word, average = "", math.inf
    for loss in losses:
        average = loss if math.isinf(average) else 0.75 * average + 0.25 * loss
        word += E
        if average < 2:
            word, average = word + M, math.inf
    assert run(schedule, losses) == word.removesuffix(M)
    assert word == "EEEEEEMEMEE"  # 8, 7, 5.25, 3.94, 2.95, 2.21 | 1 | ...
