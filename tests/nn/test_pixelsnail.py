"""PixelSNAIL: causal, without a blind spot, and the same one site at a time."""

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.pixelsnail import Depth, PixelSNAIL
from tests.codes.families import stirred

SMALL = Depth(channels=4, blocks=2, gated=1, kernel=2, keys=2)
Z = torch.randint(3, (5, 12), generator=torch.Generator().manual_seed(0))


def network(context: int = 0, depth: Depth = SMALL) -> PixelSNAIL:
    """A 3 x 4 grid of three codes, in float64."""
    return stirred(lambda: PixelSNAIL((3,) * 12, (3, 4), depth, context)).eval()


def test_by_gradients_each_site_sees_all_before_it_and_nothing_else():
    """The gradient of a site's logits in the embedded codes: exactly zero at the site and behind it, and nowhere zero before it, so there is no blind spot."""
    made = network()
    embedded = made.tokens(Z[:1].view(1, 3, 4)).detach().requires_grad_()
    made.tokens.forward = lambda z: embedded
    logits = made(Z[:1])
    for site in range(12):
        (gradient,) = torch.autograd.grad(logits[0, site].square().sum(), embedded, retain_graph=True)
        seen = gradient[0].flatten(0, 1).abs().sum(-1) > 0
        assert seen.tolist() == [i < site for i in range(12)]


@pytest.mark.parametrize("blocks", [0, 1])
def test_convolutions_alone_see_the_rows_above_on_both_sides(blocks):
    """Without attention too, the first layer reads what lies above on the right."""
    made = network(depth=Depth(channels=4, blocks=blocks, gated=1, kernel=2, keys=2))
    changed = Z[:1].clone()
    changed[0, 3] = (Z[0, 3] + 1) % 3  # the last of the first row
    moved = (made(changed) - made(Z[:1])).abs().amax(-1)[0] > 1e-9
    assert moved[6].item()  # the third of the second row lies below it on the left
    assert not moved[:4].any()


@pytest.mark.parametrize("context", [0, 5])
@torch.no_grad()
def test_one_site_at_a_time_is_all_at_once(context):
    made = network(context)
    c = torch.randn(5, context, dtype=torch.float64) if context else None
    cache = made.start(5, c)
    steps = [made.advance(cache, site, Z[:, site - 1] if site else None) for site in range(12)]
    assert (torch.stack(steps, 1) - made(Z, c)).abs().max() < 1e-10
    resumed = made.resume(5, c, Z[:, :7])
    assert (made.advance(resumed, 7, Z[:, 6]) - made(Z, c)[:, 7]).abs().max() < 1e-10


def test_a_context_reaches_every_site_of_its_own_row():
    made, c = network(5), torch.randn(5, 5, dtype=torch.float64)
    moved = c.clone()
    moved[1] += 1
    changed = (made(Z, c) - made(Z, moved)).abs().amax(-1) > 1e-9
    assert changed.any(1).tolist() == [False, True, False, False, False]
    assert changed[1].all()
    with pytest.raises(ValueError, match="built for a context of width 5"):
        made(Z, c[:, :3])


def test_as_a_distribution_it_sums_to_one():
    small = stirred(lambda: PixelSNAIL((2,) * 4, (2, 2), SMALL))
    q = AutoregressiveCodes(small)
    torch.testing.assert_close(q.table().exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(TypeError, match="use PrefixMLP or CausalTransformer"):
        q.features(Z[:, :4] % 2)


def test_what_does_not_fit_is_refused():
    for cardinalities in ((3, 2, 3, 3), (3,) * 5):
        with pytest.raises(ValueError, match="same K at all 4 sites of its 2x2 grid"):
            PixelSNAIL(cardinalities, (2, 2))
