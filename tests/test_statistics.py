"""Intervals and tests against scipy and statsmodels."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from latentcomp.statistics import interval, paired_interval, separated

VALUES = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=10).filter(lambda values: len(set(values)) > 1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(VALUES)
def test_interval_equals_statsmodels(values):
    found = interval(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx(DescrStatsW(values).tconfint_mean(0.05))
    assert found.half_width == pytest.approx((found.high - found.low) / 2)


def test_interval_of_one_seed_and_of_equal_values():
    one = interval([3.0])
    assert one.mean == 3
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


def test_paired_interval_equals_scipy_and_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=8)  # what a seed does to both rows
    a, b = 60 + seeds + 0.1 * rng.normal(size=8), 61 + seeds + 0.1 * rng.normal(size=8)
    found, theirs = paired_interval(a.tolist(), b.tolist()), scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(a - b))
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert found.half_width < interval(a.tolist()).half_width


def test_a_paired_interval_needs_the_same_seeds():
    with pytest.raises(ValueError, match="same seeds on both sides, got 3 and 2"):
        paired_interval([1.0, 2.0, 3.0], [1.0, 2.0])


def shifted(*gaps: float, seeds: int = 5) -> dict[str, list[float]]:
    """Row i lies ``gaps[i]`` above a common course over seeds, give or take a tenth."""
    rng = np.random.default_rng(0)
    course = rng.normal(size=seeds)
    return {f"row {i}": (60 + course + gap + 0.1 * rng.normal(size=seeds)).tolist() for i, gap in enumerate(gaps)}


def test_separated_keeps_the_best_and_what_is_not_worse():
    assert separated(shifted(0.0, 0.01, 5.0)) == {"row 0", "row 1"}
    assert separated(shifted(0.0, 5.0, 9.0)) == {"row 0"}
    assert separated(shifted(0.0, 5.0, 9.0), lower_is_better=False) == {"row 2"}


def test_two_rows_are_separated_at_the_p_value_of_scipy():
    values = shifted(0.0, 0.3)
    p = scipy.stats.ttest_rel(*values.values()).pvalue
    assert separated(values, level=p * 1.001) == {"row 0"}
    assert separated(values, level=p * 0.999) == {"row 0", "row 1"}


def test_holm_steps_down_by_hand():
    """Ordered p-values are held against 0.05 / m, 0.05 / (m - 1), ..., and after the first that fails none is separated."""
    rng = np.random.default_rng(3)
    undecided = 0
    for _ in range(6):
        values = {"best": rng.normal(size=6) - 3} | {f"row {i}": rng.normal(size=6) - 3 + 0.7 * i for i in range(1, 5)}
        best = min(values, key=lambda row: values[row].mean())
        p = {row: scipy.stats.ttest_rel(values[row], values[best]).pvalue for row in values if row != best}
        kept, plain = {best}, {best} | {row for row in p if p[row] > 0.05}
        for rank, row in enumerate(sorted(p, key=p.get)):
            if p[row] > 0.05 / (len(p) - rank):
                kept |= set(sorted(p, key=p.get)[rank:])
                break
        assert separated({row: list(v) for row, v in values.items()}) == kept
        undecided += kept != plain
    assert undecided > 0  # the correction mattered somewhere


def test_nothing_is_separated_with_one_seed_or_one_row():
    assert separated({"a": [1.0], "b": [9.0]}) == {"a", "b"}
    assert separated({"a": [1.0, 2.0]}) == {"a"}


def test_rows_that_are_equal_up_to_rounding_are_not_separated():
    assert separated({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [7.0, 8.5, 9.0]}) == {"a", "b"}
    assert separated({"a": [1.0, 2.0, 3.0], "b": [1 + 1e-7, 2 + 2e-7, 3 + 3e-7]}) == {"a", "b"}


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e6])
def test_the_unit_of_a_metric_does_not_matter(unit):
    """A total variation of 1e-9 is as good a number as a likelihood of 60 nats."""
    values = {row: [unit * value for value in row_values] for row, row_values in shifted(0.0, 0.01, 5.0).items()}
    assert separated(values) == {"row 0", "row 1"}


def test_a_row_that_is_worse_by_the_same_amount_at_every_seed_is_separated():
    assert separated({"a": [60.0, 61.0, 62.0], "b": [60.0001, 61.0001, 62.0001]}) == {"a"}
    assert separated({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0]}) == {"a"}
