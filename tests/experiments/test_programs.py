"""The methods of the Pyro table, against enumeration."""

import pyro
import pytest
import torch

from experiments.programs.methods import ExactSamples, GFlowNet, Marginals, MeanField
from experiments.programs.problem import PROGRAMS, problem
from experiments.programs.run import total_variation
from latentcomp import objectives


def test_marginals_multiply_and_mean_field_is_stationary():
    """Coordinate ascent raises the ELBO from the exact marginals, and ends where no factor can raise it further."""
    made = problem("markov", 20, 5)
    marginals, field = Marginals(made), MeanField(made)
    torch.testing.assert_close(marginals.table().logsumexp(-1), torch.zeros(5), atol=1e-5, rtol=0)
    start = objectives.kl(marginals.table(), made.exact.log_p)
    for _ in range(200):
        field.step(torch.arange(5), 0.0)
    assert field.moved < 1e-6
    end = objectives.kl(field.table(), made.exact.log_p)
    assert (end <= start + 1e-5).all()
    assert (end < start - 1e-3).any()
    for site in range(len(field.log_q)):
        for direction in torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)):
            kept, field.log_q[site] = field.log_q[site], (field.log_q[site] + 0.05 * direction).log_softmax(-1)
            assert (objectives.kl(field.table(), made.exact.log_p) >= end - 1e-5).all()
            field.log_q[site] = kept


def test_mean_field_cannot_hold_what_is_correlated():
    """On every program even the best mean-field posterior stays away from the exact one."""
    for name in ("markov", "asia", "mixture"):
        made = problem(name, 20, 40)
        field = MeanField(made)
        for _ in range(100):
            field.step(torch.arange(5), 0.0)
        assert objectives.total_variation(made.exact.log_p, field.table()).mean() > 0.05


def test_the_floor_learns_from_the_exact_posterior():
    made = problem("asia", 200, 20)
    torch.manual_seed(0)
    method = ExactSamples(made)
    before = objectives.total_variation(made.exact.log_p, method.table()).mean()
    for step in range(60):
        method.step(made.rows(step, 100, 0), step / 60)
    assert objectives.total_variation(made.exact.log_p, method.table()).mean() < before / 3


def test_rows_are_a_function_of_seed_and_epoch():
    made = problem("asia", 200, 20)
    epoch = torch.cat([made.rows(step, 50, 3) for step in range(4)])
    assert sorted(epoch.tolist()) == list(range(200))
    assert torch.equal(made.rows(2, 50, 3), epoch[100:150])
    assert not torch.equal(made.rows(4, 50, 3), made.rows(0, 50, 3))
    assert set(PROGRAMS) == {"markov", "asia", "mixture", "factorial", "autoencoder"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "updates"), [("markov", 4100), ("asia", 5400), ("mixture", 5900)])
def test_a_guide_comes_near_to_the_exact_posterior(name, updates):
    """In as many updates as two minutes brought (benchmarks.pyro): the mean total variation on data that the guide has not seen is at most 0.03."""
    assert total_variation(trained(GFlowNet, name, updates)) <= 0.03


@pytest.mark.slow
@pytest.mark.parametrize(("name", "updates", "floor_updates"), [("factorial", 4000, 4800), ("autoencoder", 2500, 3500)])
def test_a_guide_that_searches_comes_as_near_as_one_that_is_shown_exact_samples(name, updates, floor_updates):
    """At most 1.25 times the total variation of the same network, whose cheaper updates are as many more as the same time allows (benchmarks.pyro)."""
    floor = total_variation(trained(ExactSamples, name, floor_updates))
    assert total_variation(trained(GFlowNet, name, updates)) <= 1.25 * floor


def trained(kind, name, updates):
    """A method after its training."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    method = kind(problem(name, 5000, 200))
    for step in range(updates):
        method.step(method.problem.rows(step, 50, 0), step / updates)
    return method
