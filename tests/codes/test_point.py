"""What a point mass has beyond the contract."""

import pytest
import torch

from latentcomp.codes.point import PointCodes
from latentcomp.noise import Noise
from tests.frequencies import assert_frequencies

Z = torch.tensor([[0, 1], [1, 2]])
POINT = PointCodes(Z, (2, 3))


def test_all_samples_and_the_mode_are_the_one_sequence():
    assert torch.equal(POINT.mode, Z)
    assert torch.equal(POINT.sample((5,), Noise(0, 0, torch.arange(2))), Z.expand(5, 2, 2))


def test_other_sequences_are_impossible():
    assert POINT.log_prob(Z).tolist() == [0.0, 0.0]
    assert POINT.log_prob(torch.tensor([[0, 0], [0, 2]])).tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_h_is_kept_and_gives_the_precision(dtype):
    h = torch.randn(2, 2, 5, dtype=dtype)
    q = PointCodes(Z, (2, 3), h)
    assert q.h is h
    assert q.log_prob(Z).dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_explore_keeps_each_code_or_draws_it_uniformly():
    """With epsilon = 0.3, row 1 keeps z_2 = 2 with probability 0.7 + 0.3 / 3 and takes each other code with 0.3 / 3."""
    z = POINT.explore(0.3, temperature=2.0).sample((6000,), Noise(0, 0, torch.arange(2)))
    assert_frequencies(z[:, 1, 1], torch.tensor([0.1, 0.1, 0.8]))
    assert_frequencies(z[:, 1, 0], torch.tensor([0.15, 0.85]))
