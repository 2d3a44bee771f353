"""Means of metrics: over the steps that had them, and the same after a checkpoint."""

import pytest
import torch

from latentcomp.evaluate.means import Means

STEPS = [{"a": 1.0}, {"a": 2.0, "b": 5.0}, {}, {"b": 7.0, "a": 6.0}, {"a": 4.0}]


def filled(steps) -> Means:
    means = Means()
    for metrics in steps:
        means.update({name: torch.tensor(value) for name, value in metrics.items()})
    return means


def test_they_are_over_the_steps_that_had_a_metric():
    assert filled(STEPS).values() == pytest.approx({"a": 13 / 4, "b": 6.0})
    assert Means().values() == {}


def test_they_go_on_from_a_checkpoint_and_begin_anew(tmp_path):
    whole, stopped = filled(STEPS), filled(STEPS[:2])
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    again = Means()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for metrics in STEPS[2:]:
        again.update({name: torch.tensor(value) for name, value in metrics.items()})
    assert again.values() == whole.values()
    again.clear()
    assert again.values() == {}
