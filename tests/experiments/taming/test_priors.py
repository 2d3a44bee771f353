"""The tables' priors: their sizes, and a condition that stands above the picture's codes, checked against the definition."""

import itertools
import math

import pytest
import torch

from experiments.taming.priors import Sites, Snail, Transformer, parameters
from experiments.taming.stacked import Stacked
from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.orders import ORDERS
from latentcomp.nn.pixelsnail import Depth, PixelSNAIL
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from latentcomp.priors import InOrder
from tests.codes.families import stirred
from tests.frequencies import assert_frequencies, positions

SMALL = Depth(channels=4, blocks=2, gated=1, kernel=2, keys=2)
R = torch.randint(4, (5, 4), generator=torch.Generator().manual_seed(1))
Z = torch.randint(3, (5, 4), generator=torch.Generator().manual_seed(2))
ALL = torch.tensor(list(itertools.product(range(3), repeat=4)))


def stacked() -> Stacked:
    """A 2 x 2 grid of three codes below a 2 x 2 grid of four, in float64."""
    return stirred(lambda: Stacked(PixelSNAIL((4,) * 8, (4, 2), SMALL), (3,) * 4)).eval()


@torch.no_grad()
def test_logits_are_those_of_the_lower_grid():
    made = stacked()
    whole = made.network(torch.cat([R, Z], 1))
    assert torch.equal(made(Z, R), whole[:, 4:, :3])
    assert torch.equal(made(Z.expand(2, 5, 4), R)[1], whole[:, 4:, :3])


@torch.no_grad()
def test_each_site_sees_the_condition_and_what_is_before_it():
    made = stacked()
    for site in range(4):
        changed = Z.clone()
        changed[:, site] = (Z[:, site] + 1) % 3
        moved = ((made(changed, R) - made(Z, R)).abs().amax(-1) > 1e-9).any(0)
        assert moved.tolist() == [i > site for i in range(4)]
        other = R.clone()
        other[:, site] = (R[:, site] + 1) % 4
        assert ((made(Z, other) - made(Z, R)).abs().amax(-1) > 1e-9).all()


@torch.no_grad()
def test_one_site_at_a_time_is_all_at_once():
    made = stacked()
    cache = made.start(10, R)
    twice = Z.repeat(2, 1)
    steps = [made.advance(cache, site, twice[:, site - 1] if site else None) for site in range(4)]
    assert (torch.stack(steps, 1) - made(Z, R).repeat(2, 1, 1)).abs().max() < 1e-10


@torch.no_grad()
def test_samples_follow_the_conditional_probabilities():
    """2,000 draws of each of two conditions against the table of all 81 codes; each fails with probability 1e-6."""
    p = AutoregressiveCodes(stacked(), R[:2])
    drawn = p.sample((2000,), Noise(0, 0, torch.arange(2)))
    for row in range(2):
        table = AutoregressiveCodes(stacked(), R[row : row + 1].expand(81, -1)).log_prob(ALL).exp()
        assert table.sum().item() == pytest.approx(1, abs=1e-10)
        assert_frequencies(positions(drawn[:, row], (3,) * 4), table)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="not the last of a network over 4 sites"):
        Stacked(PixelSNAIL((4,) * 4, (2, 2), SMALL), (3,) * 4)
    with pytest.raises(ValueError, match="for the larger vocabulary"):
        Stacked(PixelSNAIL((2,) * 8, (4, 2), SMALL), (3,) * 4)
    with pytest.raises(ValueError, match="conditions of 4 codes .*got none"):
        stacked()(Z)
    with pytest.raises(ValueError, match=r"conditions of 4 codes .*got \(5, 3\)"):
        stacked()(Z, R[:, :3])
    with pytest.raises(TypeError, match="PixelSNAIL has no features"):
        stacked().features(Z, R)
    with pytest.raises(ValueError, match="3 codes of a condition fill no rows of 2"):
        Snail(4, 1)(Sites((2, 2), 3, 3, 4))
    with pytest.raises(ValueError, match="'Hilbert' is no known order.*ZCurve"):
        Transformer(1, 8, 2, order="Hilbert")(Sites((2, 2), 3))


@pytest.mark.parametrize("build", [Transformer(1, 8, 2), Snail(4, 1, 1, 2)])
def test_a_condition_s_codes_may_outnumber_the_picture_s(build):
    prior = build(Sites((2, 2), 3, 4, 9))
    r = torch.full((1, 4), 8)
    table = prior(r.expand(81, -1)).log_prob(ALL)
    assert table.exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert prior(r).sample((), Noise(0, 0, torch.arange(1))).shape == (1, 4)
    free = build(Sites((2, 2), 3))
    assert free().log_prob(ALL).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_an_order_is_a_permutation_of_the_same_network(order):
    torch.manual_seed(0)
    prior = Transformer(1, 8, 2, order=order)(Sites((4, 4), 3))
    z = torch.randint(3, (6, 16), generator=torch.Generator().manual_seed(0))
    network = prior.prior.network if isinstance(prior, InOrder) else prior.network
    written = z[:, ORDERS[order](4, 4)]
    assert torch.allclose(prior().log_prob(z), AutoregressiveCodes(network).log_prob(written))
    assert isinstance(prior, InOrder) == (order != "Identity")


def test_parameters_are_counted_once_and_frozen_ones_not():
    network = CausalTransformer((3,) * 4, 0, 8, 1, 2)
    whole = sum(math.prod(parameter.shape) for parameter in network.parameters())
    assert parameters(network) == whole
    next(network.parameters()).requires_grad_(False)
    assert parameters(network) < whole
