"""Code usage, counted by hand."""

import math

import pytest
import torch

from latentcomp.evaluate.usage import Tally, usage


def test_counts_by_site_and_pooled_perplexity():
    z = torch.tensor([[[0, 1], [0, 0]], [[2, 1], [0, 1]]])  # two samples of two images with two sites
    given = usage(z, 4)
    assert given.counts.tolist() == [[3, 0, 1, 0], [1, 3, 0, 0]]
    share = [4 / 8, 3 / 8, 1 / 8]
    assert given.perplexity == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)))
    assert given.used == 3 / 4


@pytest.mark.parametrize("codes", [1, 5])
def test_even_use_has_perplexity_k(codes):
    given = usage(torch.arange(codes).unsqueeze(-1), codes)
    assert given.perplexity == pytest.approx(codes)
    assert given.used == 1


def test_a_single_code_has_perplexity_one():
    given = usage(torch.full((9, 3), 2), 8)
    assert given.perplexity == pytest.approx(1)
    assert given.used == 1 / 8


@pytest.mark.parametrize(("z", "least", "most"), [([[5, 0]], 0, 5), ([[0, 4]], 0, 4), ([[-1, 0]], -1, 0), ([[0, 0], [3, 99]], 0, 99)])
def test_codes_of_another_codebook_are_refused(z, least, most):
    """Not counted for the next site."""
    with pytest.raises(ValueError, match=rf"codes must lie in 0\.\.3 \(K=4\).*; got values from {least} to {most}"):
        usage(torch.tensor(z), 4)
    tally = Tally(2, 4)
    with pytest.raises(ValueError, match="K=4"):
        tally.update(torch.tensor(z))
    assert not tally.counts.any()


def test_a_large_codebook_needs_no_table_of_ones_and_zeros():
    """20,000 codes at K = 2^16: as one-hot rows 10 GB."""
    z = torch.randint(2**16, (400, 50), generator=torch.Generator().manual_seed(0))
    given = usage(z, 2**16)
    assert given.counts.sum() == z.numel()
    assert given.used == len(z.unique()) / 2**16
