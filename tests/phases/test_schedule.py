"""Schedules as sequences of E and M, and the running mean of a threshold against a recursion by hand."""

import math

import pytest
import torch

from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.phases.e_step import WakePhi
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
    schedule.update(0, {"e_loss": torch.zeros(3)})
    assert [tuple(schedule.updates(step)) for step in range(7)] == word
    assert not schedule.reads_loss


def test_a_period_of_nothing_and_an_unknown_first_phase_are_refused():
    with pytest.raises(ValueError, match='first must be "E" or "M", got \'e\''):
        Period(first="e")
    for lengths in ((0, 0), (-1, 2)):
        with pytest.raises(ValueError, match=f"got e_steps={lengths[0]}, m_steps={lengths[1]}"):
            Period(*lengths)


def run(schedule: Threshold, losses: list[float]) -> str:
    """The phases that follow from a sequence of losses: an E-step reports the next one, an M-step none."""
    word, left = "", list(losses)
    while left:
        (phase,) = schedule.updates(len(word))
        schedule.update(len(word), {"e_loss": torch.tensor([left[0] - 1, left[0] + 1])} if phase == E else {})
        left = left[1:] if phase == E else left
        word += phase
    return word


def test_a_threshold_asks_for_an_m_step_when_the_running_mean_is_below_it():
    """Running means 8, 7, 5.25, 1.9 and then, in a new row, 1, and 9, 6.5."""
    schedule = Threshold(2.0, patience=100, decay=0.75)
    assert run(schedule, [8.0, 4.0, 0.0, -8.1515625, 1.0, 9.0, -1.0]) == "EEEEMEMEE"
    assert float(schedule.average) == pytest.approx(6.5)
    assert int(schedule.row) == 2


def test_patience_caps_a_row_of_e_steps():
    assert run(Threshold(-math.inf, patience=3), [1.0] * 8) == "EEEMEEEMEE"
    assert run(Threshold(math.inf, patience=3), [1.0] * 4) == "EMEMEME"


def test_only_a_threshold_reads_the_loss():
    assert Threshold(1.0).reads_loss
    assert set(Threshold(1.0).state_dict()) == {"average", "row"}


def phases(learner, updates: int) -> str:
    """M for the steps with an M-step, E for the others, in a run."""
    model = tiny_model()
    return "".join(M if "m_loss" in metrics else E for metrics in fit(model, learner, batches(updates), adam(model, learner)))


def test_e_steps_without_a_loss_end_with_patience():
    """Where q learns asleep alone there is nothing to compare with the threshold."""
    schedule, word = Threshold(1.0, patience=2), ""
    for step in range(7):
        word += schedule.updates(step)[0]
        schedule.update(step, {})
    assert word == "EEMEEME"


@pytest.mark.parametrize(
    ("learner", "reason"),
    [
        (lambda q: WakeSleep(q, schedule=Threshold(1.0)), r"Threshold reads the loss of the wake phase, and there is none: pass wake=WakePhi\(\)"),
        (lambda q: Reinforce(q, schedule=Threshold(1.0)), "Threshold compares.*the value of LeaveOneOut says nothing.*use LogVariance"),
        (lambda q: WakeSleep(q, WakePhi(), schedule=Threshold(1.0)), "Threshold compares.*the value of WakePhi says nothing.*use LogVariance"),
    ],
)
def test_a_threshold_on_a_loss_that_says_nothing_is_refused(learner, reason):
    with pytest.raises(ValueError, match=reason):
        learner(posterior("factorised"))


def test_a_threshold_in_a_run():
    learner = GFlowNetEM(posterior("factorised"), schedule=Threshold(1e6, patience=2)).double()
    assert phases(learner, 4) == "EMEM"
    learner = GFlowNetEM(posterior("factorised"), schedule=Threshold(0.0, patience=2)).double()
    assert phases(learner, 4) == "EEME"
