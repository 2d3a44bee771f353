"""A first stage as a row: the distance that judges it, from a file as the docs name it, a download or a module; and how its numbers are printed."""

from pathlib import Path

import pytest
from torch import nn

from experiments import first_stage, settings
from experiments.run import line


class Read(nn.Module):
    """Remembers which weights it was asked for."""

    def __init__(self, weights: str | Path | None) -> None:
        super().__init__()
        self.weights = weights


@pytest.mark.parametrize(("given", "weights"), [("budget.distance=vgg16.safetensors", "vgg16.safetensors"), ("budget.distance=null", None)])
def test_the_weights_of_the_budget_are_read(given, weights, monkeypatch):
    monkeypatch.setattr(first_stage, "LPIPS", Read)
    made = first_stage.judging(settings.composed(["experiment=vqgan/modern", "budget=vqgan/cpu", given]))
    assert isinstance(made, Read)
    assert made.weights == weights


def test_a_module_of_the_budget_is_taken_as_it_is():
    assert isinstance(first_stage.judging(settings.composed(["experiment=vqgan/modern", "budget=vqgan/smoke"])), first_stage.Thumbnails)


def test_a_number_that_does_not_exist_is_printed_with_its_reason():
    assert line({"metric": "kl_q_p", "value": 0.25, "unit": "nats", "reason": None}).split() == ["kl_q_p", "0.2500", "nats"]
    assert line({"metric": "exact_nll", "value": None, "unit": "nats", "reason": "an energy has no normaliser"}).endswith("– nats  an energy has no normaliser")
