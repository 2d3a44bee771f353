"""The sliding window: where it lies, what it writes, and that it is the prior itself where the grid is the window."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import inverse_cdf
from latentcomp.codes.masked import MaskedCodes
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.guided import Guided
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.orders import raster, z_curve
from latentcomp.noise import Noise
from latentcomp.sampling.window import Cropped, Everywhere, origin, runs, slide
from tests.codes.families import contexts, stirred
from tests.codes.families import network as made

K, WINDOW = 4, (4, 4)


def gpt(condition: int = 1) -> GPT:
    """A window of 4 x 4 sites after so many codes, in float64."""
    return stirred(lambda: GPT((K,) * 16, Size(K + 1, 15 + condition, 8, 1, 2), start=K)).eval()


@given(side=st.integers(16, 48))
def test_windows_lie_as_in_the_published_script(side):
    for i in range(side):
        local = i if i <= 8 else 16 - (side - i) if side - i < 8 else 8
        assert i - origin(i, side, 16) == local


@given(h=st.integers(1, 6), w=st.integers(1, 6), more=st.tuples(st.integers(0, 9), st.integers(0, 9)), stride=st.integers(1, 3))
def test_runs_write_every_site_once_and_read_only_what_is_written(h, w, more, stride):
    grid, stride = (h + more[0], w + more[1]), min(stride, (min(h, w) + 1) // 2)
    written = torch.zeros(grid, dtype=torch.bool)
    for run in runs(grid, (h, w), stride):
        window = written[run.top : run.top + h, run.left : run.left + w]
        assert window.shape == (h, w)
        flat = window.flatten().clone()
        assert flat[: run.first].all()
        assert not flat[run.first : run.first + run.length].any()
        flat[run.first : run.first + run.length] = True
        written[run.top : run.top + h, run.left : run.left + w] = flat.view(h, w)
    assert written.all()


def test_a_grid_of_the_window_s_size_is_one_run_and_the_prior_s_own_sample():
    assert len(list(runs((4, 4), (4, 4)))) == 1
    network, noise = gpt(), lambda: Noise(2, 0, torch.arange(3))
    r = torch.tensor([[0], [1], [4]])
    z = slide(lambda r: AutoregressiveCodes(network, r), (4, 4), WINDOW, 3, Everywhere(r), noise=noise())
    assert torch.equal(z.flatten(1), AutoregressiveCodes(network, r).sample((), noise()))
    free = slide(lambda r: TruncatedCodes(network, r, top_k=2), (4, 4), WINDOW, 3, noise=noise())
    assert torch.equal(free.flatten(1), TruncatedCodes(network, None, top_k=2).sample((3,), noise()))


def site_by_site(network, grid: tuple[int, int], given, noise: Noise, rows: int = 2, stride: int = 1) -> torch.Tensor:
    """As the published script does it: for each site the whole window without a cache, of whose logits one is read. ``given`` cuts r by (top, left)."""
    z, u = torch.zeros(rows, *grid, dtype=torch.long), noise.uniform((), grid)
    for i in range(grid[0]):
        for j in range(grid[1]):
            top, left = origin(i, grid[0], 4, stride), origin(j, grid[1], 4, stride)
            patch = z[:, top : top + 4, left : left + 4].flatten(1)
            logits = network(patch, given(top, left))[:, (i - top) * 4 + j - left]
            z[:, i, j] = inverse_cdf(logits.log_softmax(-1), u[:, i, j].double())
    return z


GRIDS = [((4, 9), 1), ((5, 4), 2), ((7, 6), 1), ((7, 6), 2)]
CASES = [(kind, *case) for kind in ("none", "label", "map", "features") for case in GRIDS] + [("coarse map", (6, 8), 2)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "grid", "stride"), CASES, ids=str)
@torch.no_grad()
def test_windows_with_a_cache_write_what_site_by_site_writes_without(kind, grid, stride):
    """Grids of any size, not only multiples of the window; any condition or none."""
    h, w = grid
    r = torch.randint(K, (2, h, w), generator=torch.Generator().manual_seed(0))
    coarse, label, features = r[:, : h // 2, : w // 2], torch.tensor([[0], [1]]), contexts(2)
    network, condition, given = {
        "none": lambda: (stirred(lambda: modern(None)), None, lambda top, left: None),
        "label": lambda: (gpt(), Everywhere(label), lambda top, left: label),
        "map": lambda: (gpt(16), Cropped(r), lambda top, left: r[:, top : top + 4, left : left + 4].flatten(1)),
        "coarse map": lambda: (gpt(4), Cropped(coarse), lambda t, left: coarse[:, t // 2 : t // 2 + 2, left // 2 : left // 2 + 2].flatten(1)),
        "features": lambda: (made("transformer", (K,) * 16), Everywhere(features), lambda top, left: features),
    }[kind]()
    noise = lambda: Noise(1, 0, torch.arange(2))  # noqa: E731
    z = slide(lambda r: AutoregressiveCodes(network.eval(), r), grid, WINDOW, 2, condition, None, stride, noise())
    assert torch.equal(z, site_by_site(network, grid, given, noise(), 2, stride))


def test_larger_strides_read_less_often():
    """Windows of a row begin at 0..16 in steps of the stride."""
    assert [len(list(runs((32, 32), (16, 16), stride))) for stride in (1, 4, 8)] == [17 * 32, 5 * 32, 3 * 32]


def test_first_rows_may_be_given():
    network, noise = gpt(), lambda: Noise(1, 0, torch.arange(2))
    writer = lambda r: AutoregressiveCodes(network, r)  # noqa: E731
    whole = slide(writer, (6, 5), WINDOW, 2, noise=noise())
    assert torch.equal(slide(writer, (6, 5), WINDOW, 2, given=whole[:, :3], noise=noise()), whole)
    other = (whole[:, :3] + 1) % K
    half = slide(writer, (6, 5), WINDOW, 2, given=other, noise=noise())
    assert torch.equal(half[:, :3], other)
    assert not torch.equal(half[:, 3:], whole[:, 3:])


def test_maps_of_other_sizes_are_cropped_in_step():
    seen = []

    def writer(r):
        seen.append(r)
        return AutoregressiveCodes(network, r)

    network, fine = gpt(64), torch.arange(16 * 16).view(1, 16, 16) % K
    slide(writer, (8, 8), WINDOW, 1, Cropped(fine), noise=Noise(0, 0, torch.arange(1)))
    assert torch.equal(seen[-1], fine[:, 8:, 8:].flatten(1))
    coarse = Cropped(fine[:, :4, :4])
    assert coarse(2, 4, (4, 4), (8, 8)).tolist() == [fine[0, 1:3, 2:4].flatten().tolist()]
    with pytest.raises(ValueError, match="from 1 to 5 of 8 sites cuts through the 4 codes of the condition's map"):
        coarse(1, 0, (4, 4), (8, 8))


def modern(order: torch.Tensor | None) -> ModernTransformer:
    """A 4 x 4 grid, written in the order."""
    return ModernTransformer((K,) * 16, Width(8, 1, 2), (2, 1), WINDOW, order)


def test_what_cannot_slide_is_refused():
    writer = lambda r: AutoregressiveCodes(gpt(), r)  # noqa: E731
    with pytest.raises(ValueError, match=r"window \(4 x 4\) must fit into the grid \(3 x 9\)"):
        slide(writer, (3, 9), WINDOW)
    with pytest.raises(ValueError, match="the prior writes 16 codes, no window of 2 x 4"):
        slide(writer, (8, 8), (2, 4))
    with pytest.raises(ValueError, match="moves by 1 to 2 sites.*got stride=3"):
        slide(writer, (8, 8), WINDOW, stride=3)
    with pytest.raises(ValueError, match=r"have shape \(1, at most 8, 8\); got \(1, 2, 7\)"):
        slide(writer, (8, 8), WINDOW, given=torch.zeros(1, 2, 7, dtype=torch.long))
    with pytest.raises(ValueError, match=r"2 grid\(s\) of 8 x 8 codes have shape \(2, at most 8, 8\); got \(3, 2, 8\)"):
        slide(writer, (8, 8), WINDOW, rows=2, given=torch.zeros(3, 2, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="how many grids are drawn, one or more; got 0"):
        slide(writer, (8, 8), WINDOW, rows=0)
    with pytest.raises(TypeError, match="MaskedCodes does not write so"):
        slide(lambda r: MaskedCodes(MaskedTransformer((K,) * 16, 4, 1, 1)), (8, 8), WINDOW)
    for wrap in (lambda made: made, lambda made: Guided(made, 2.0)):
        with pytest.raises(ValueError, match="a window slides row by row, but .* was built for another order of sites"):
            slide(lambda r, wrap=wrap: AutoregressiveCodes(wrap(modern(z_curve(4, 4))), torch.zeros(1, 1, dtype=torch.long)), (8, 8), WINDOW)
    for order in (None, raster(4, 4)):
        assert slide(lambda r, order=order: AutoregressiveCodes(modern(order)), (4, 5), WINDOW).shape == (1, 4, 5)
