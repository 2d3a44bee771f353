"""Equal time: measured in turn, by the median, once."""

import pytest

from experiments.taming import limits
from experiments.taming.limits import SameTime, Updates, ratio, remembered


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def update(self, seconds, slow=None):
        """An update of so many seconds, ten times as many in the calls named by ``slow``."""
        calls = iter(range(10**6))

        def made():
            self.now += seconds * (10 if next(calls) in (slow or ()) else 1)

        return made


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(limits.time, "perf_counter", lambda: made.now)
    return made


def test_the_ratio_is_that_of_the_times_and_no_passing_disturbance_moves_it(clock):
    assert ratio(clock.update(3.0), clock.update(2.0), rounds=5, each=2) == pytest.approx(1.5)
    first_round, one_more = (0, 1), (6,)
    assert ratio(clock.update(3.0, first_round), clock.update(2.0, one_more), rounds=5, each=2) == pytest.approx(1.5)


def test_both_are_timed_by_turns():
    order = []
    ratio(lambda: order.append("a"), lambda: order.append("b"), rounds=2, each=3)
    assert "".join(order) == "aaabbb" * 3


def test_equal_time_turns_the_rivals_updates_into_the_rows_own(clock):
    rival, own = object(), object()
    trial = {id(rival): clock.update(1.0), id(own): clock.update(4.0)}
    same = SameTime(rival, rounds=3, each=1)
    assert same(100, own, lambda build: trial[id(build)]) == 25
    assert same(1, own, lambda build: trial[id(build)]) == 1
    assert Updates()(100, own, lambda build: pytest.fail("nothing is timed")) == 100


def test_what_was_measured_once_stays(tmp_path):
    place, numbers = tmp_path / "run" / "updates.json", iter((7, 8))
    assert remembered(place, lambda: next(numbers)) == 7
    assert remembered(place, lambda: next(numbers)) == 7
    assert remembered(None, lambda: next(numbers)) == 8
