"""Windows completed one after the other: they cover any grid, keep what is given, and take masked priors too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.masked import Decoding, MaskedCodes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.noise import Noise
from latentcomp.priors import Uniform
from latentcomp.sampling.patchwork import patchwork, places
from tests.codes.families import stirred

K, WINDOW = 4, (4, 4)


def gpt() -> GPT:
    """16 sites of four codes, without a condition."""
    return stirred(lambda: GPT((K,) * 16, Size(K + 1, 16, 8, 1, 2), start=K)).eval()


@given(h=st.integers(1, 6), w=st.integers(1, 6), more=st.tuples(st.integers(0, 9), st.integers(0, 9)), stride=st.integers(1, 6))
def test_windows_cover_any_grid_and_stay_inside(h, w, more, stride):
    grid, stride = (h + more[0], w + more[1]), min(stride, h, w)
    covered = torch.zeros(grid, dtype=torch.bool)
    for top, left in places(grid, (h, w), stride):
        assert covered[top : top + h, left : left + w].shape == (h, w)
        assert not covered[top : top + h, left : left + w].all(), "each writes something"
        covered[top : top + h, left : left + w] = True
    assert covered.all()


def test_first_rows_may_be_given():
    network, noise = gpt(), lambda: Noise(1, 0, torch.arange(2))
    writer = lambda r: AutoregressiveCodes(network, r)  # noqa: E731
    whole = patchwork(writer, (6, 5), WINDOW, 2, noise=noise())
    assert torch.equal(patchwork(writer, (6, 5), WINDOW, 2, given=whole[:, :3], noise=noise()), whole)
    other = (whole[:, :3] + 1) % K
    half = patchwork(writer, (6, 5), WINDOW, 2, given=other, noise=noise())
    assert torch.equal(half[:, :3], other)
    assert not torch.equal(half[:, 3:], whole[:, 3:])


def test_a_masked_prior_reads_all_that_is_there():
    network = stirred(lambda: MaskedTransformer((K,) * 16, 8, 1, 2)).eval()
    z = patchwork(lambda r: MaskedCodes(network, r, Decoding(2)), (4, 6), WINDOW, 3, noise=Noise(0, 0, torch.arange(3)))
    noise = Noise(0, 0, torch.arange(3))
    first = MaskedCodes(network, None, Decoding(2)).sample((3,), noise).view(3, 4, 4)
    assert torch.equal(z[:, :, :4], first)
    second = torch.cat([first[:, :, 2:], torch.zeros(3, 4, 2, dtype=torch.long)], 2).flatten(1)
    hidden = (torch.arange(16) % 4 >= 2).expand(3, -1)
    assert torch.equal(z[:, :, 2:].flatten(1), MaskedCodes(network, None, Decoding(2)).completed(second, hidden, noise))


def test_what_cannot_be_patched_is_refused():
    writer = lambda r: AutoregressiveCodes(gpt(), r)  # noqa: E731
    with pytest.raises(ValueError, match=r"window \(4 x 4\) must fit into the grid \(3 x 9\)"):
        patchwork(writer, (3, 9), WINDOW)
    with pytest.raises(ValueError, match="the prior writes 16 codes, no window of 2 x 4"):
        patchwork(writer, (8, 8), (2, 4))
    with pytest.raises(ValueError, match="moves by 1 to 4 sites, its smaller side; got stride=5"):
        patchwork(writer, (8, 8), WINDOW, stride=5)
    with pytest.raises(TypeError, match="FactorisedCodes cannot complete a part of a sequence"):
        patchwork(lambda r: Uniform(16, K)(), (8, 8), WINDOW)
