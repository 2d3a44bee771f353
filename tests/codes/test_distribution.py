"""The contract of all distributions over codes, against sums over all codes written out."""

import pytest
import torch

from latentcomp.codes.distribution import CodeDistribution, inverse_cdf
from latentcomp.enumeration import all_codes
from latentcomp.noise import Noise
from tests.codes.families import CARDINALITIES, FAMILIES, build, contexts
from tests.frequencies import assert_frequencies, positions

B, S = 3, 3000
CASES = [(family, c, rows) for family in FAMILIES for c in CARDINALITIES for rows in (B, None) if (family, rows) != ("point", None)]
every_row = pytest.mark.parametrize(("family", "cardinalities"), [(family, c) for family in FAMILIES for c in CARDINALITIES], ids=str)
site_by_site = pytest.mark.parametrize("q", [case for case in CASES if case[0] != "table"], indirect=True, ids=str)


@pytest.fixture(params=CASES, ids=str)
def q(request) -> CodeDistribution:
    """Every family, with a context for each of B rows and without any."""
    family, cardinalities, rows = request.param
    return build(family, cardinalities, None if rows is None else contexts(rows))


def codes_of(q: CodeDistribution) -> torch.Tensor:
    """All codes, for every row: ``(M, *B, N)``."""
    codes = all_codes(q.cardinalities)
    return codes.unsqueeze(1).expand(-1, *q.batch_shape, -1) if q.batch_shape else codes


def conditionals(q: CodeDistribution, z: torch.Tensor, site: int) -> torch.Tensor:
    """q(z_i = k | z_<i) of all k < K_i: ``(..., K_i)``, whatever z holds at site i itself."""
    changed = [torch.where(torch.arange(z.shape[-1]) == site, k, z) for k in range(q.cardinalities[site])]
    return torch.stack([q.log_prob_steps(other)[..., site].exp() for other in changed], -1)


def test_sums_to_one_over_all_codes(q):
    torch.testing.assert_close(q.log_prob(codes_of(q)).exp().sum(0), torch.ones(q.batch_shape), check_dtype=False)


def test_steps_are_conditionals_and_sum_to_the_log_probability(q):
    z = codes_of(q)
    torch.testing.assert_close(q.log_prob_steps(z).sum(-1), q.log_prob(z))
    for site in range(z.shape[-1]):
        torch.testing.assert_close(conditionals(q, z, site).sum(-1), torch.ones(z.shape[:-1]), check_dtype=False)


def test_steps_are_ratios_of_prefix_probabilities(q):
    z, p = codes_of(q), q.log_prob(codes_of(q)).exp()
    for site in range(z.shape[-1]):
        same = [(z.unsqueeze(1)[..., :n] == z[..., :n]).all(-1) for n in (site, site + 1)]  # (M, M, *B): which codes share a prefix with which
        before, after = ((s * p).sum(1) for s in same)
        possible = before > 0
        torch.testing.assert_close(q.log_prob_steps(z)[..., site].exp()[possible], (after / before)[possible])


def test_table_lists_the_log_probabilities_of_all_codes_in_order(q):
    torch.testing.assert_close(q.table(), q.log_prob(codes_of(q)).movedim(0, -1))


@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_shapes(q, leading):
    z = q.sample(leading)
    assert z.shape == (*leading, *q.batch_shape, *q.event_shape)
    assert z.dtype == torch.long
    assert q.log_prob(z).shape == (*leading, *q.batch_shape)
    assert q.log_prob_steps(z).shape == z.shape
    assert q.mode.shape == (*q.batch_shape, *q.event_shape)
    assert q.log_prob(q.mode).isfinite().all()


def test_samples_have_the_probabilities_of_the_table(q):
    torch.manual_seed(0)
    z, p = q.sample((S,)), q.table().exp().view(-1, q.table().shape[-1])
    for row, drawn in enumerate(positions(z, q.cardinalities).view(S, -1).T):
        assert_frequencies(drawn, p[row])


@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_sample_and_log_prob_are_the_sample_and_its_log_probability(q, leading):
    rows = (*leading, *q.batch_shape) or (1,)
    z, log_q = q.sample_and_log_prob(leading, Noise(0, 1, torch.arange(rows[-1])))
    assert torch.equal(z, q.sample(leading, Noise(0, 1, torch.arange(rows[-1]))))
    torch.testing.assert_close(log_q, q.log_prob(z))


@every_row
def test_rows_draw_the_same_in_a_batch_and_in_its_halves(family, cardinalities):
    context, index = contexts(4), torch.tensor([7, 3, 11, 5])
    whole = build(family, cardinalities, context).sample((6,), Noise(1, 2, index))
    halves = [build(family, cardinalities, context[half]).sample((6,), Noise(1, 2, index[half])) for half in (slice(0, 2), slice(2, 4))]
    assert torch.equal(whole, torch.cat(halves, 1))


def test_samples_follow_the_global_seed(q):
    draws = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        draws.append(q.sample((50,)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2]) or q.table().exp().max() == 1


@site_by_site  # a table explores over whole sequences: see test_table.py
@pytest.mark.parametrize(("epsilon", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.0, 2.5), (0.2, 0.5), (1.0, 1.0)])
def test_explore_flattens_then_mixes_each_conditional(q, epsilon, temperature):
    z, by_hand = codes_of(q), 0.0
    for site, k in enumerate(q.cardinalities):
        p = conditionals(q, z, site) ** (1 / temperature)
        p = (1 - epsilon) * p / p.sum(-1, keepdim=True) + epsilon / k
        by_hand = by_hand + p.gather(-1, z[..., site, None]).squeeze(-1).log()
    torch.testing.assert_close(q.explore(epsilon, temperature).log_prob(z), by_hand)
    torch.testing.assert_close(q.explore(epsilon, temperature).table().exp().sum(-1), torch.ones(q.batch_shape), check_dtype=False)


@pytest.mark.parametrize(
    ("settings", "named"), [((-0.1, 1.0), "epsilon"), ((1.1, 1.0), "epsilon"), ((0.1, 0.0), "temperature"), ((0.1, float("inf")), "temper")]
)
def test_explore_refuses_what_is_no_distribution(q, settings, named):
    with pytest.raises(ValueError, match=named):
        q.explore(*settings)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "point"])
def test_gradients_are_finite_though_some_codes_do_not_exist(family):
    context = contexts().requires_grad_()
    q = build(family, (2, 3, 4), context)
    for policy in (q, q.explore(0.2, 2.0)):
        (gradient,) = torch.autograd.grad(policy.log_prob(policy.mode).sum(), context, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@every_row
def test_context_is_there_or_its_absence_explained(family, cardinalities):
    q = build(family, cardinalities, contexts())
    if family in ("point", "table"):
        with pytest.raises(AttributeError, match="choose a posterior with an encoder"):
            _ = q.context
    else:
        assert torch.equal(q.context, contexts())
        assert torch.equal(q.explore(0.1).context, contexts())


def test_inverse_cdf_never_chooses_an_impossible_code():
    log_p = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).log()
    u = torch.tensor([2**-24, 0.25, 0.5 - 2**-24, 0.5, 0.75, 1 - 2**-24])
    assert inverse_cdf(log_p.expand(6, 5), u).tolist() == [1, 1, 1, 3, 3, 3]
