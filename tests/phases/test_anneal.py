"""Annealed numbers at steps worked out by hand."""

import pytest

from latentcomp.phases.anneal import Constant, Cosine, Exponential


def test_constant_stays():
    assert [Constant(0.3)(step) for step in (0, 7, 10**6)] == [0.3] * 3


def test_exponential_falls_by_equal_factors_and_then_stays():
    tau = Exponential(8.0, 1.0, 3)
    assert [tau(step) for step in (0, 1, 2, 3, 4, 10**6)] == pytest.approx([8, 4, 2, 1, 1, 1])


def test_exponential_may_rise():
    assert [Exponential(1.0, 4.0, 2)(step) for step in (0, 1, 2, 3)] == pytest.approx([1, 2, 4, 4])


def test_cosine_falls_slowly_at_first_and_at_last_and_then_stays():
    tau = Cosine(9.0, 1.0, 4)
    half = 4 / 2**0.5
    assert [tau(step) for step in (0, 1, 2, 3, 4, 5, 10**6)] == pytest.approx([9, 5 + half, 5, 5 - half, 1, 1, 1])
