"""Masked codes: the bound against all orders, the draws against the mixture over orders, the decoder's steps."""

import itertools
import math

import pytest
import torch

from latentcomp.codes.masked import ANY_ORDER, Decoding, MaskedCodes, cosine_share, uniform_share
from latentcomp.enumeration import all_codes
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.noise import Noise
from latentcomp.priors import Masked
from tests.codes.families import stirred
from tests.frequencies import assert_frequencies, positions

N, K = 3, 2
ALL = all_codes((K,) * N)
ORDERS = [torch.tensor(order) for order in itertools.permutations(range(N))]
STEPWISE = Decoding(steps=N, randomness=ANY_ORDER, schedule=uniform_share)
R = torch.tensor([[0], [2]])


def network(conditions: tuple[int, int] = (3, 1)) -> MaskedTransformer:
    """Three sites of two codes, in float64."""
    return stirred(lambda: MaskedTransformer((K,) * N, 8, 2, 2, conditions)).eval()


def by_hand(made: MaskedTransformer, z: torch.Tensor, order: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
    """sum_i log p(z_o(i) | z_o(<i)), the hidden codes set to what no one should read."""
    total = torch.zeros(len(z), dtype=torch.float64)
    for i, site in enumerate(order):
        hidden = torch.ones(N, dtype=torch.bool)
        hidden[order[:i]] = False
        read = torch.where(hidden, 1 - z, z)
        total += made(read, hidden.expand_as(z), context).log_softmax(-1)[torch.arange(len(z)), site, z[:, site]]
    return total


def test_hidden_codes_change_nothing_and_visible_ones_do():
    made, hidden = network(), torch.tensor([True, False, True])
    z = torch.tensor([[0, 1, 0]])
    for site in range(N):
        changed = z.clone()
        changed[0, site] = 1 - z[0, site]
        same = torch.allclose(made(z, hidden.expand(1, -1)), made(changed, hidden.expand(1, -1)))
        assert same == bool(hidden[site])


def test_in_one_order_it_is_a_distribution():
    made = network()
    for order in ORDERS:
        log_p = MaskedCodes(made).log_prob_in_order(ALL, order)
        torch.testing.assert_close(log_p, by_hand(made, ALL, order))
        torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0, dtype=torch.float64))


def test_the_bound_is_unbiased_and_below_the_mixture():
    """Its mean over 4,000 draws lies within 5 standard errors (error rate 6e-7 a sequence) of the mean over all orders, written out."""
    made = network()
    in_orders = torch.stack([by_hand(made, ALL, order) for order in ORDERS])
    expected, log_p = in_orders.mean(0), in_orders.logsumexp(0) - math.log(len(ORDERS))
    assert (expected < log_p - 1e-3).all()
    draws = 4_000
    estimates = MaskedCodes(made).bound(ALL.unsqueeze(1).expand(-1, draws, -1), Noise(0, 0, torch.arange(draws)))
    error = estimates.std(1) / math.sqrt(draws)
    assert ((estimates.mean(1) - expected).abs() < 5 * error).all()


def test_one_site_at_a_time_in_random_order_draws_from_the_mixture():
    """Error rate: ``frequencies.LEVEL``."""
    made = network()
    mixture = torch.stack([by_hand(made, ALL, order) for order in ORDERS]).exp().mean(0)
    z = MaskedCodes(made, None, STEPWISE).sample((20_000,), Noise(1, 0, torch.arange(20_000)))
    assert_frequencies(positions(z, (K,) * N), mixture)


def test_conditions_are_those_of_their_rows():
    made = network()
    q = MaskedCodes(made, R)
    assert q.batch_shape == (2,)
    z = ALL[[3, 5]]
    order = ORDERS[2]
    torch.testing.assert_close(q.log_prob_in_order(z, order), by_hand(made, z, order, R))
    none = q.unconditioned(torch.tensor([False, True]))
    expected = torch.stack([by_hand(made, z, order, R)[0], by_hand(made, z, order)[1]])
    torch.testing.assert_close(none.log_prob_in_order(z, order), expected)
    torch.testing.assert_close(q.select(torch.tensor([1])).log_prob_in_order(z[1:], order), by_hand(made, z, order, R)[1:])
    prior = Masked(made, torch.nn.Identity())
    torch.testing.assert_close(prior(R).log_prob_in_order(z, order), q.log_prob_in_order(z, order))
    assert Masked(made)().batch_shape == ()


def test_guidance_mixes_logits():
    made, hidden = network(), torch.ones(2, N, dtype=torch.bool)
    z = torch.zeros(2, N, dtype=torch.long)
    plain, none = made(z, hidden, R), made(z, hidden)
    torch.testing.assert_close(MaskedCodes(made, R, Decoding(2, guidance=3.0))._logits(z, hidden), none + 3 * (plain - none))


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 64])
def test_each_step_shows_as_many_as_its_schedule_says(steps):
    """A network that notes how many sites are hidden when it is asked: the schedule's own numbers, at least one fewer each time."""
    n, asked = 64, []
    made = MaskedTransformer((K,) * n, 4, 1, 1)
    forward = made.forward
    made.forward = lambda z, hidden, context=None: (asked.append(hidden.sum(-1)), forward(z, hidden, context))[1]
    MaskedCodes(made, None, Decoding(steps)).sample((2,), Noise(0, 0, torch.arange(2)))
    assert len(asked) == steps
    expected = [n]
    for step in range(1, steps):
        expected.append(min(math.floor(n * math.cos(math.pi / 2 * step / steps)), expected[-1] - 1))
    assert [count.tolist() for count in asked] == [[count, count] for count in expected]


@pytest.mark.parametrize("n", [3, 7, 49, 64])
def test_as_many_steps_as_sites_show_one_at_a_time(n):
    counts = []
    made = MaskedTransformer((K,) * n, 4, 1, 1)
    forward = made.forward
    made.forward = lambda z, hidden, context=None: (counts.append(int(hidden.sum())), forward(z, hidden, context))[1]
    MaskedCodes(made, None, Decoding(n, randomness=ANY_ORDER, schedule=lambda t: 1 - t)).sample((1,), Noise(0, 0, torch.arange(1)))
    assert counts == list(range(n, 0, -1))


def test_what_is_given_stays():
    q = MaskedCodes(network(), None, Decoding(2))
    z = ALL[[0, 6]]
    hidden = torch.tensor([[True, False, False], [False, True, True]])
    drawn = q.completed(z, hidden, Noise(0, 0, torch.arange(2)))
    assert torch.equal(drawn[~hidden], z[~hidden])
    assert torch.equal(q.continued(z[:, :2], Noise(0, 0, torch.arange(2)))[:, :2], z[:, :2])
    with pytest.raises(ValueError, match="a sequence has 3 codes, but 4 were given"):
        q.continued(torch.zeros(1, 4, dtype=torch.long))
    for code in (-1, K):
        with pytest.raises(ValueError, match=rf"given codes must lie in 0..1; got values from {min(0, code)} to {max(1, code)}"):
            q.continued(torch.tensor([[0, 1], [1, code]]))
    assert q.completed(torch.full((2, N), 9), torch.ones(2, N, dtype=torch.bool)).shape == (2, N)  # hidden codes are not looked at
    with pytest.raises(ValueError, match=r"have shape \(R, 3\)"):
        q.completed(z[:, :2], hidden[:, :2])


def test_a_condition_may_have_several_beginnings():
    """Row r belongs to condition r modulo B: as with as many conditions, each of them named."""
    q, given = MaskedCodes(network(), R, Decoding(2)), ALL[[0, 6, 2, 5], :2]
    noise = lambda: Noise(0, 0, torch.arange(4))  # noqa: E731
    assert torch.equal(q.continued(given, noise()), MaskedCodes(network(), R.repeat(2, 1), Decoding(2)).continued(given, noise()))
    with pytest.raises(ValueError, match="3 beginnings for 2 conditions: give each condition the same number of beginnings"):
        q.continued(given[:3])


def test_greedy_codes_are_the_surest_first():
    made = network()
    first = made(ALL[:1], torch.ones(1, N, dtype=torch.bool)).log_softmax(-1)[0]
    mode = MaskedCodes(made, None, Decoding(N, schedule=lambda t: 1 - t)).mode
    site = int(first.amax(-1).argmax())
    assert mode[site] == first[site].argmax()
    assert mode.shape == (N,)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_greedy_codes_wait_for_no_device(steps):
    """The meta device has no values, so that whatever reads one fails."""
    made = MaskedCodes(network().to("meta"), R.to("meta"), Decoding(steps))
    assert made.mode.is_meta
    assert made.mode.shape == (2, N)


def test_what_it_cannot_say_it_refuses():
    q = MaskedCodes(network(), R, Decoding(2))
    for ask in (q.log_prob, q.log_prob_steps):
        with pytest.raises(TypeError, match="has no log p\\(z\\), only a bound"):
            ask(ALL[:2])
    with pytest.raises(TypeError, match="only a bound"):
        q.table()
    with pytest.raises(TypeError, match="choose an autoregressive one"):
        q.explore(0.1)
    with pytest.raises(ValueError, match="drawn in 1 to 3 steps, got 4"):
        MaskedCodes(network(), None, Decoding(4))
    with pytest.raises(ValueError, match="temperature must be positive"):
        MaskedCodes(network(), None, Decoding(2, temperature=0.0))
    for rising in (lambda t: t, lambda t: 1 - t / 2):
        with pytest.raises(ValueError, match="a decoding's schedule falls from 1 .all hidden. to 0; got one from [01] to (1|0.5): take cosine_share"):
            MaskedCodes(network(), None, Decoding(2, schedule=rising))
    with pytest.raises(ValueError, match="same K at all sites"):
        MaskedTransformer((2, 3))
    with pytest.raises(TypeError, match="no condition to leave out"):
        MaskedCodes(network(), None, Decoding(2)).unconditioned(torch.tensor([True]))


def test_cosine_hides_many_more_often():
    u = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(cosine_share(u), torch.tensor([1.0, 0.5**0.5, 0.0]), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("schedule", "hidden"), [(uniform_share, [6, 4, 2]), (cosine_share, [7, 5, 3])])
def test_a_decoding_hides_what_its_schedule_says(schedule, hidden):
    """Eight sites in four steps: N (1 - t / T), and N cos(pi t / 2 T), rounded down; what each step asks the network for is what the one before left."""
    made, asked = stirred(lambda: MaskedTransformer((K,) * 8, 8, 1, 2)).eval(), []
    made.register_forward_pre_hook(lambda module, given: asked.append(given[1].sum(-1).unique().tolist()))
    MaskedCodes(made, None, Decoding(4, schedule=schedule)).sample((5,), Noise(0, 0, torch.arange(5)))
    assert asked == [[8], *([n] for n in hidden)]
