"""Noise: uniform, independent along every axis, and a function of (seed, step, example, draw) alone. Chi-square and KS tests fail a right generator with
probability 1e-6 at the fixed seeds.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from latentcomp import noise
from latentcomp.noise import Noise, coin, permutation
from tests.frequencies import LEVEL, assert_frequencies

WORDS = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 10_000)
ONE = torch.zeros(1, dtype=torch.long)
DTYPES = (torch.float32, torch.float64)
property_test = settings(max_examples=50, deadline=None, derandomize=True)

ALONG: dict[str, Callable[[int, torch.dtype], torch.Tensor]] = {
    "examples": lambda n, dtype: Noise(0, 0, torch.arange(n)).uniform((), (), dtype),
    "samples": lambda n, dtype: Noise(0, 0, ONE).uniform((n,), (), dtype)[:, 0],
    "sites": lambda n, dtype: Noise(0, 0, ONE).uniform((), (n,), dtype)[0],
    "steps": lambda n, dtype: torch.cat([Noise(0, step, ONE).uniform((), (), dtype) for step in range(n)]),
    "seeds": lambda n, dtype: torch.cat([Noise(seed, 0, ONE).uniform((), (), dtype) for seed in range(n)]),
}
along = pytest.mark.parametrize("axis", ALONG)


def test_the_hash_is_splitmix64():
    """The first outputs of the published generator from state 1234567, which adds the golden ratio and mixes."""
    words = [noise._mix_word(1234567 + n * noise._GOLDEN) for n in (1, 2, 3)]
    assert words == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@property_test
@given(st.lists(WORDS, min_size=1, max_size=20))
def test_the_hash_of_tensors_is_that_of_whole_numbers(words):
    mixed = noise._mix(torch.tensor([noise._signed(word) for word in words]))
    assert mixed.tolist() == [noise._signed(noise._mix_word(word)) for word in words]


@along
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_are_uniform(axis, dtype):
    u = ALONG[axis](600, dtype)
    assert u.dtype == dtype
    assert kstest(u.double().numpy(), "uniform").pvalue > LEVEL


@along
def test_neighbours_are_independent_in_high_and_low_bits(axis):
    u = ALONG[axis](1300, torch.float64)
    high, low = (u * 8).long(), (u * 2**52).long() % 8
    for cells in (high, low):
        assert_frequencies(cells[:-1:2] * 8 + cells[1::2], torch.full((64,), 1 / 64))
    assert_frequencies(high * 8 + low, torch.full((64,), 1 / 64))


@pytest.mark.parametrize("word", [0, -1], ids=["lowest", "highest"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_words_stay_inside_the_open_interval(monkeypatch, word, dtype):
    monkeypatch.setattr(noise, "_mix", lambda words: torch.full_like(words, word))
    u = Noise(0, 0, ONE).uniform((), (), dtype)
    assert 0 < u < 1
    assert Noise(0, 0, ONE).gumbel((), (), dtype).isfinite()


@property_test
@given(seed=SMALL, step=SMALL, rows=st.integers(2, 9), cut=st.integers(1, 8), samples=st.integers(1, 3), dtype=st.sampled_from(DTYPES))
def test_a_batch_draws_what_its_parts_draw(seed, step, rows, cut, samples, dtype):
    index = torch.randperm(100)[:rows]
    whole = Noise(seed, step, index)
    parts = [Noise(seed, step, part) for part in (index[:cut], index[cut:]) if len(part)]
    for _ in range(2):  # the second call too
        assert torch.equal(whole.uniform((samples,), (2,), dtype), torch.cat([part.uniform((samples,), (2,), dtype) for part in parts], 1))


def test_a_second_call_continues_the_stream():
    index = torch.arange(5)
    stream, whole = Noise(3, 4, index), Noise(3, 4, index).uniform((3,), (2,))
    assert torch.equal(torch.cat([stream.uniform((1,), (2,)), stream.uniform((2,), (2,))]), whole)


@pytest.mark.parametrize("a", [(0, 0, 0), (0, 1, 0), (7, 7, 7)], ids=str)
@pytest.mark.parametrize("b", [(1, 0, 0), (0, 0, 1), (7, 7, 8)], ids=str)
def test_two_streams_share_no_number_and_are_independent_draw_by_draw(a, b):
    """Streams are (seed, step, index)."""
    first, second = (Noise(seed, step, torch.tensor([index])).uniform((2000,), (), torch.float64).flatten() for seed, step, index in (a, b))
    assert not torch.isin(first, second).any()
    assert_frequencies((first * 8).long() * 8 + (second * 8).long(), torch.full((64,), 1 / 64))


def test_fresh_follows_the_global_seed_and_never_repeats():
    torch.manual_seed(0)
    first, second = (Noise.fresh(4).uniform((), (3,)) for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(Noise.fresh(4).uniform((), (3,)), first)
    assert not torch.isin(second, first).any()


def test_gumbel_numbers_have_the_gumbel_distribution():
    g = Noise(0, 0, torch.arange(100)).gumbel((5,), (10,), torch.float64)
    assert g.shape == (5, 100, 10)
    assert kstest(g.flatten().numpy(), "gumbel_r").pvalue > LEVEL


@property_test
@given(n=st.integers(0, 50), seed=SMALL, epoch=SMALL)
def test_permutation_is_one_and_depends_on_seed_and_epoch_alone(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    torch.rand(3)  # nobody else's numbers matter
    assert torch.equal(order, permutation(n, seed, epoch))


def test_permutations_are_all_equally_probable_over_epochs_and_seeds():
    for orders in ([permutation(3, 0, epoch) for epoch in range(600)], [permutation(3, seed, 0) for seed in range(600)]):
        distinct, cells = np.unique(torch.stack(orders).numpy(), axis=0, return_inverse=True)
        assert len(distinct) == 6
        assert_frequencies(torch.as_tensor(cells), torch.full((6,), 1 / 6))


@pytest.mark.parametrize("step", [0, 1])
def test_the_order_of_an_epoch_says_nothing_about_the_noise_of_a_step(step):
    """Were the order drawn from the same numbers, the examples that come first would have the smallest noise in the step of that number."""
    first = permutation(4000, 0, step)[:1000]
    assert kstest(Noise(0, step, first).uniform((), (), torch.float64).numpy(), "uniform").pvalue > LEVEL


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_a_coin_falls_as_often_as_it_should(probability):
    heads = sum(coin(probability, 0, step) for step in range(2000))
    assert binomtest(heads, 2000, probability).pvalue > LEVEL
    assert heads == sum(coin(probability, 0, step) for step in range(2000))


def test_coins_of_probability_zero_and_one_are_certain():
    assert not any(coin(0.0, 0, step) for step in range(1000))
    assert all(coin(1.0, 0, step) for step in range(1000))
