"""Intervals and tests over seeds: paired t, corrected for the number of rows by Holm's method.

Two rows are compared seed by seed, since what a seed turns (initial weights and noise, in experiments also the data's fold) it turns for both alike: the
differences vary less than the values.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean and its two-sided 95 % t-interval; the interval is (nan, nan) for a single seed."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float]) -> Interval:
    """The mean over seeds with its t-interval."""
    from scipy.stats import t

    array = np.asarray(values, dtype=float)
    if len(array) < 2:
        return Interval(float(array.mean()), float("nan"), float("nan"))
    error = array.std(ddof=1) / np.sqrt(len(array))
    if error == 0:
        return Interval(float(array.mean()), float(array.mean()), float(array.mean()))
    return Interval(float(array.mean()), *(float(end) for end in t.interval(0.95, len(array) - 1, array.mean(), error)))


def paired_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The mean of a - b over seeds with its paired t-interval; a and b hold one value a seed, in the same order."""
    if len(a) != len(b):
        raise ValueError(f"a paired comparison needs the same seeds on both sides, got {len(a)} and {len(b)} values")
    return interval(np.subtract(a, b).tolist())


def separated(values: Mapping[str, Sequence[float]], lower_is_better: bool = True, level: float = 0.05) -> set[str]:
    """The rows that may be called best: the one with the best mean, and those that a paired t-test does not separate from it.

    P-values are corrected over the rows by Holm's method (1979). With a single seed nothing is separated.
    """
    from statsmodels.stats.multitest import multipletests

    best = (min if lower_is_better else max)(values, key=lambda row: float(np.mean(values[row])))
    others = [row for row in values if row != best]
    if not others or len(values[best]) < 2:
        return set(values)
    p = [_paired_p(values[row], values[best]) for row in others]
    rejected = multipletests(p, level, method="holm")[0]
    return {best} | {row for row, worse in zip(others, rejected, strict=True) if not worse}


def _paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value of a paired t-test: 1 where a and b are equal up to the rounding of float32, 0 where they differ by the same at every seed."""
    from scipy.stats import t

    if np.allclose(a, b, rtol=1e-6, atol=0):
        return 1.0
    difference = np.subtract(a, b)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return 0.0 if error == 0 else float(2 * t.sf(abs(difference.mean()) / error, len(difference) - 1))
