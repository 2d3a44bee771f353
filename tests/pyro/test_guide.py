"""The guide: what it samples, in which shapes, and in the hands of Pyro's own tools."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Normal
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from experiments.programs import hidden_markov, mixture
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.pyro import GFlowNetELBO, GFlowNetGuide, exact_posterior
from tests.frequencies import assert_frequencies, positions


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("policy", [None, CausalTransformer])
@pytest.mark.parametrize("module", [hidden_markov, mixture])
def test_a_call_samples_q_itself_under_the_sites_names(module, policy):
    guide = GFlowNetGuide(module.program) if policy is None else GFlowNetGuide(module.program, policy=policy)
    x = module.data(2, 1)
    trace = poutine.trace(guide).get_trace(x)
    layout = guide.layout
    with pyro.plate("samples", 1500, dim=-layout.nesting - 1):
        drawn = guide(x)
    z = torch.stack([layout.pack({name: value[s] for name, value in drawn.items()}) for s in range(1500)])
    table = guide.q(x).table().exp()
    for b in range(2):
        assert_frequencies(positions(z[:, b], layout.cardinalities), table[b])
    model = poutine.trace(poutine.replay(module.program, trace=trace)).get_trace(x)
    for site in layout.sites:
        assert torch.equal(model.nodes[site.name]["value"], trace.nodes[site.name]["value"])
        assert model.nodes[site.name]["value"].dtype == torch.long
        assert [f.name for f in model.nodes[site.name]["cond_indep_stack"]] == [f.name for f in trace.nodes[site.name]["cond_indep_stack"]]
    trace.compute_log_prob()
    log_q = trace.nodes["_latentcomp_z"]["log_prob"]
    torch.testing.assert_close(log_q.flatten(), guide.q(x).log_prob(layout.pack({s.name: trace.nodes[s.name]["value"] for s in layout.sites})))


@pytest.mark.parametrize("module", [hidden_markov, mixture])
@pytest.mark.parametrize("vectorize", [False, True])
def test_stock_trace_elbo_estimates_the_elbo_of_q(module, vectorize):
    """-ELBO = -log p(x) + KL(q || p(z|x)), from the tables; the estimate within five of its own standard errors."""
    x, guide = module.data(4, 1), GFlowNetGuide(module.program)
    guide(x)
    exact, log_q = exact_posterior(module.program, x), guide.q(x).table()
    expected = float((log_q.exp() * (log_q - exact.log_p)).sum() - exact.log_px.sum())
    estimates = torch.tensor(
        [Trace_ELBO(num_particles=100, vectorize_particles=vectorize).loss(module.program, guide, x) for _ in range(4 if vectorize else 1)]
    )
    spread = float((log_q.exp() * (log_q - exact.log_p - (log_q.exp() * (log_q - exact.log_p)).sum(-1, keepdim=True)).square()).sum().sqrt())
    assert abs(float(estimates.mean()) - expected) < 5 * spread / (100 * len(estimates)) ** 0.5


def test_later_calls_may_have_another_size_and_values_keep_their_dtype():
    def program(x):
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin, 1.0), obs=x)

    guide = GFlowNetGuide(program)
    assert {name: (value.shape, value.dtype) for name, value in guide(torch.zeros(5)).items()} == {"coin": ((5,), torch.float32)}
    assert guide(torch.zeros(3))["coin"].shape == (3,)
    assert guide.sites(guide.q(torch.zeros(2)).sample((7,)))["coin"].shape == (7, 2)


def test_predictive_draws_with_it():
    x, guide = hidden_markov.data(3, 1), GFlowNetGuide(hidden_markov.program)
    guide(x)
    drawn = Predictive(hidden_markov.program, guide=guide, num_samples=11)(x)
    assert drawn["z_2"].shape == (11, 3)


def test_features_and_trunk_replace_what_the_encoder_reads():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 256)

        def forward(self, x):
            assert x.shape[1:] == (2, 5)
            return self.linear(x.mean((1, 2)).unsqueeze(-1))

    x = hidden_markov.data(4, 1)
    guide = GFlowNetGuide(hidden_markov.program, features=lambda x: torch.stack([x, x], 1).float(), trunk=Mean())
    guide(x)
    table = guide.q(torch.tensor([[0, 0, 0, 0, 4], [4, 0, 0, 0, 0]])).table()
    torch.testing.assert_close(table[0], table[1])  # the mean does not see the order
    short = GFlowNetGuide(hidden_markov.program, features=lambda x: x[:2].float())
    with pytest.raises(ValueError, match="2 rows for 4 data"):
        short(x)


def test_subsampled_rows_are_those_the_model_chose():
    x = torch.arange(6.0)
    seen = []

    def program(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            seen.append(index)
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin, 1.0), obs=x[index])

    guide = GFlowNetGuide(program)
    trace = poutine.trace(guide).get_trace(x)
    assert torch.equal(torch.as_tensor(trace.nodes["data"]["value"]), seen[-1])
    poutine.trace(poutine.replay(program, trace=trace)).get_trace(x)
    assert torch.equal(seen[-1], seen[-2])
    trace.compute_log_prob()
    assert trace.nodes["_latentcomp_z"]["scale"] == 3.0


def test_a_second_guide_over_the_first_one_s_parameters_is_refused_where_the_store_is_used():
    x = hidden_markov.data(3, 1)
    first, second = GFlowNetGuide(hidden_markov.program), GFlowNetGuide(hidden_markov.program)
    first(x)
    second(x)  # nobody watches: the parameters are torch's alone
    SVI(hidden_markov.program, first, Adam({"lr": 1e-3}), GFlowNetELBO()).step(x)
    with pytest.raises(RuntimeError, match="clear_param_store"):
        SVI(hidden_markov.program, second, Adam({"lr": 1e-3}), GFlowNetELBO()).step(x)


def test_before_the_first_call_it_says_so():
    with pytest.raises(RuntimeError, match="call it once"):
        GFlowNetGuide(hidden_markov.program).sites(torch.zeros(1, 5, dtype=torch.long))
