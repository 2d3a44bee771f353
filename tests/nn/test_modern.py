"""The modern transformer: rotations, causality, cache, conditions of their own vocabulary, guidance."""

import math

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.guided import Guided
from latentcomp.nn.modern import ModernTransformer, Width, rotations, turned
from latentcomp.nn.orders import spiral_out
from latentcomp.noise import Noise
from tests.codes.families import stirred

SMALL = Width(16, 2, 2)
R = torch.tensor([[4, 0], [2, 3]])
Z = torch.randint(3, (2, 4), generator=torch.Generator().manual_seed(0))


def network(conditions: tuple[int, int] = (5, 2), **options) -> ModernTransformer:
    """A 2 x 2 grid of three codes after two of five, in float64."""
    return stirred(lambda: ModernTransformer((3,) * 4, SMALL, conditions, (2, 2), **options)).eval()


def test_turned_pairs_meet_at_the_difference_of_their_places():
    """What a query reads of a key depends on how far apart they are, along rows and columns."""
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    at = lambda x, place: turned(x, rotations(torch.tensor([place]), 16).double())  # noqa: E731
    product = lambda a, b: float((at(q, a) * at(k, b)).sum())  # noqa: E731
    assert product((3, 5), (1, 4)) == pytest.approx(product((7, 2), (5, 1)), rel=1e-5)
    assert product((3, 5), (1, 4)) != pytest.approx(product((3, 5), (1, 5)), rel=1e-3)
    assert product((3, 5), (1, 4)) != pytest.approx(product((3, 5), (2, 4)), rel=1e-3)
    torch.testing.assert_close(at(q, (0, 0)), q)
    torch.testing.assert_close(at(q, (9, 4)).norm(), q.norm(), rtol=1e-6, atol=0)


def test_one_pair_turns_by_hand():
    x = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 1, 4)
    by_hand = torch.tensor([math.cos(2), math.sin(2), math.cos(3), math.sin(3)])  # width 4: one pair for rows, one for columns, frequency 1
    torch.testing.assert_close(turned(x, rotations(torch.tensor([[2, 3]]), 4)).flatten(), by_hand)


@pytest.mark.parametrize("context", [R, None])
@torch.no_grad()
def test_one_site_at_a_time_is_all_at_once(context):
    made, rows = network(), Z.repeat(3, 1)
    cache = made.start(6, context)
    steps = [made.advance(cache, site, rows[:, site - 1] if site else None) for site in range(4)]
    assert (torch.stack(steps, 1) - made(rows.view(3, 2, 4), context).view(6, 4, 3)).abs().max() < 1e-10
    for a in (1, 3):
        resumed = made.resume(6, context, rows[:, :a])
        assert (made.advance(resumed, a, rows[:, a - 1]) - torch.stack(steps, 1)[:, a]).abs().max() < 1e-10


def test_sites_see_what_comes_before_and_the_condition():
    made = network()
    logits, features = made(Z, R), made.features(Z, R)
    assert features.shape == (2, 5, 16)
    for site in range(4):
        changed = Z.clone()
        changed[:, site] = (Z[:, site] + 1) % 3
        assert ((made(changed, R) - logits).abs().amax((0, 2)) > 1e-9).tolist() == [i > site for i in range(4)]
        assert ((made.features(changed, R) - features).abs().amax((0, 2)) > 1e-9).tolist() == [i > site for i in range(5)]
    for position in range(2):
        changed = R.clone()
        changed[:, position] = (R[:, position] + 1) % 5
        assert ((made(Z, changed) - logits).abs().amax((0, 2)) > 1e-9).all()


def test_the_order_of_writing_turns_the_sites():
    """The same weights, told that the sequence runs in a spiral, give other logits; told the raster order, the same."""
    raster, spiral, told = network(), network(order=spiral_out(2, 2)), network(order=torch.arange(4))
    spiral.load_state_dict(raster.state_dict())
    assert torch.equal(raster(Z, R), told(Z, R))
    assert not torch.allclose(raster(Z, R), spiral(Z, R))


def test_as_a_distribution_it_sums_to_one_with_and_without_a_condition():
    for context in (R, None):
        q = AutoregressiveCodes(network(), context)
        torch.testing.assert_close(q.table().logsumexp(-1), torch.zeros(q.batch_shape, dtype=torch.float64), atol=1e-9, rtol=0)
    none = AutoregressiveCodes(network(), R).unconditioned(torch.tensor([True, False]))
    torch.testing.assert_close(none.log_prob(Z)[0], AutoregressiveCodes(network()).log_prob(Z)[0])
    torch.testing.assert_close(none.log_prob(Z)[1], AutoregressiveCodes(network(), R).log_prob(Z)[1])


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_moves_logits_away_from_no_condition(scale):
    made = network()
    guided = Guided(made, scale)
    expected = made(Z) + scale * (made(Z, R) - made(Z))
    torch.testing.assert_close(guided(Z, R), expected)
    with torch.no_grad():
        cache, rows = guided.start(4, R), Z.repeat(2, 1)
        steps = [guided.advance(cache, site, rows[:, site - 1] if site else None) for site in range(4)]
        torch.testing.assert_close(torch.stack(steps, 1).view(2, 2, 4, 3), expected.expand(2, -1, -1, -1))
        resumed = guided.resume(4, R, rows[:, :2])
        torch.testing.assert_close(guided.advance(resumed, 2, rows[:, 1]).view(2, 2, 3), expected[:, 2].expand(2, -1, -1))
        cache = guided.start(2, R)
        guided.advance(cache, 0, None)
        for rows in (torch.tensor([1, 0, 1]), torch.tensor([2, 1])):  # the second time of those that are left
            cache.select(rows)
        torch.testing.assert_close(guided.advance(cache, 1, Z[[1, 0], 0]), expected[[1, 0], 1])


def test_guided_codes_are_a_distribution():
    q = TruncatedCodes(Guided(network(), 3.0), R, top_k=2)
    torch.testing.assert_close(q.table().logsumexp(-1), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    z, log_q = q.sample_and_log_prob((50,), Noise(0, 0, torch.arange(2)))
    torch.testing.assert_close(q.log_prob(z), log_q)
    with pytest.raises(ValueError, match="towards a condition: pass one"):
        AutoregressiveCodes(Guided(network(), 3.0)).sample((2,))
    with pytest.raises(ValueError, match="scale of guidance is 0 .* got -1"):
        Guided(network(), -1.0)
    with pytest.raises(ValueError, match="a finite number; got inf"):
        Guided(network(), math.inf)
    with pytest.raises(TypeError, match="features of the network inside"):
        q.features(z)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="same K at all 4 sites of its 2x2 grid"):
        ModernTransformer((3, 3, 3), SMALL, grid=(2, 2))
    with pytest.raises(ValueError, match=r"4 heads must share the width \(24\), a multiple of four each"):
        ModernTransformer((3, 3), Width(24, 1, 4))
    with pytest.raises(ValueError, match="must hold each of 0..1 once"):
        ModernTransformer((3, 3), SMALL, order=torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="one code or more out of a vocabulary"):
        ModernTransformer((3, 3), SMALL, conditions=(3, 0))
    with pytest.raises(ValueError, match=r"vocabulary 0..4; got values from 0 to 6"):
        network()(Z, torch.tensor([[0, 6], [1, 1]]))
    with pytest.raises(ValueError, match=r"conditions of 2 code\(s\), got 3"):
        network()(Z, torch.zeros(2, 3, dtype=torch.long))


def test_gradients_reach_every_parameter():
    made = network().train()
    rows = torch.cat([R, R * 0 + 5])
    made(Z.repeat(2, 1), rows).log_softmax(-1)[..., 0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())
