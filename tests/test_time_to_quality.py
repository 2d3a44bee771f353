"""The race to a likelihood: whose turn it is, when a contestant is looked at, and when it first reached a value."""

import itertools

import pytest
import torch

from benchmarks.time_to_quality import SOONEST, Contestant, next_look, race, reached, report


class Steady(Contestant):
    """Takes as long for each step, and loses a nat with each; the clock is its own."""

    def __init__(self, pace: float, start: float, length: int = 10**6) -> None:
        super().__init__()
        self.pace, self.start, self.length = pace, start, length

    def train(self, steps: int) -> None:
        taken = min(steps, self.length - self.steps)
        self.steps, self.seconds, self.finished = self.steps + taken, self.seconds + taken * self.pace, taken < steps

    def judge(self, x: torch.Tensor, samples: int) -> None:
        self.curve.append((self.seconds, self.steps, self.start - self.steps))

    def step(self) -> bool:
        raise AssertionError

    def judged(self):
        raise AssertionError


@pytest.fixture
def runners() -> dict[str, Contestant]:
    """A slow one, a fast one, and a fast one that is done early."""
    everyone = {"published code": Steady(0.5, 500.0), "fast": Steady(0.05, 500.0), "modern": Steady(0.05, 500.0, length=402)}
    race(everyone, torch.empty(0), seconds=100.0, every=20.0, samples=1)
    return everyone


def test_everyone_trains_as_long_or_to_the_end(runners):
    assert runners["published code"].seconds == pytest.approx(100.0, abs=2.5)
    assert runners["fast"].seconds == pytest.approx(100.0, abs=0.25)
    assert runners["modern"].steps == 402
    assert runners["modern"].curve[-1][1] == 402  # judged at its end


def test_looks_are_close_at_first_and_never_far_apart(runners):
    seconds = [second for second, *_ in runners["fast"].curve]
    gaps = [after - before for before, after in itertools.pairwise(seconds)]
    assert seconds[1] == pytest.approx(SOONEST, abs=0.5)
    assert max(gaps) <= 20.0 + 0.25
    assert sum(second < 20.0 for second in seconds) >= 8
    assert gaps[-1] >= 15.0  # but a look costs time of its own, so that later ones are rare


def test_the_next_look_is_at_most_so_far_away():
    assert next_look([], 20.0) == 0.0
    assert next_look([(0.1, 5, 0.0)], 20.0) == SOONEST
    assert next_look([(40.0, 5, 0.0)], 20.0) == 50.0
    assert next_look([(400.0, 5, 0.0)], 20.0) == 420.0
    assert next_look([(1.0, 5, 0.0)], 0.5) == 1.5


def test_a_value_is_reached_at_the_first_look_below_it():
    curve = [(1.0, 5, 300.0), (2.0, 10, 200.0), (3.0, 15, 250.0)]
    assert reached(curve, 260.0) == 2.0
    assert reached(curve, 199.0) is None


def test_targets_are_what_the_published_code_reached(runners):
    found = report(runners)["targets"]
    first, best = 495.0, min(nll for *_, nll in runners["published code"].curve)
    assert [row["nll"] for row in found] == pytest.approx([best + share * (first - best) for share in (0.5, 0.25, 0.1, 0.0)])
    assert all(row["fast"] <= row["published code"] / 5 for row in found)
