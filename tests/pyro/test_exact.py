"""The exact posterior, against Pyro's own enumeration and against Bayes' rule by hand."""

import math

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Binomial, Categorical, Normal, OneHotCategorical
from pyro.infer import TraceEnum_ELBO, config_enumerate

from experiments.programs import asia, autoencoder, factorial, hidden_markov, mixture
from latentcomp.enumeration import TooManyCodes
from latentcomp.posteriors.exact import Exact
from latentcomp.pyro import exact_posterior
from latentcomp.pyro.program import Program
from tests.scenarios import tiny_images, tiny_model


@pytest.mark.parametrize(("module", "nesting"), [(hidden_markov, 1), (asia, 1), (mixture, 2)])
def test_log_px_is_that_of_trace_enum(module, nesting):
    x = module.data(6, 1)
    enumerated = TraceEnum_ELBO(max_plate_nesting=nesting).loss(config_enumerate(module.program), lambda x: None, x)
    assert float(exact_posterior(module.program, x).log_px.sum()) == pytest.approx(-enumerated, rel=1e-5)


@pytest.mark.parametrize(("module", "nesting"), [(hidden_markov, 1), (asia, 1)])
def test_marginals_are_those_of_trace_enum(module, nesting):
    x = module.data(5, 2)
    theirs = TraceEnum_ELBO(max_plate_nesting=nesting).compute_marginals(config_enumerate(module.program), lambda x: None, x)
    ours = exact_posterior(module.program, x)
    for name, marginal in theirs.items():
        support = marginal.enumerate_support(expand=True)
        torch.testing.assert_close(ours.marginal(name)[:, 0], marginal.log_prob(support).exp().T, atol=1e-5, rtol=1e-4)


def test_pixels_of_a_discrete_vae_in_pyro_are_those_of_the_model_itself():
    model = tiny_model(2, 3)

    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Categorical(torch.ones(2, 3) / 3).to_event(1))
            logits = model.decoder(model.codebook(z).reshape(-1, 2, 2)).reshape(*z.shape[:-1], -1)
            pyro.sample("x", Bernoulli(logits=logits).to_event(1), obs=x)

    x = tiny_images(4)
    found = exact_posterior(program, x.flatten(1))
    torch.testing.assert_close(found.log_p, Exact()(model, x).table().detach())


def test_factors_with_events_and_the_frozen_autoencoder_have_as_many_values_as_they_say(monkeypatch):
    x = factorial.data(3, 1)
    assert exact_posterior(factorial.program, x).log_p.shape == (3, 2**12)
    model = autoencoder.decoder(updates=1)
    monkeypatch.setattr(autoencoder, "decoder", lambda: model)
    assert exact_posterior(autoencoder.program, autoencoder.data(2, 1)).log_p.shape == (2, 6**4)


def test_values_of_any_dtype_and_shape():
    """A count, a one-hot vector and a coin behind one number, by Bayes' rule written out."""

    def program(x):
        with pyro.plate("data", len(x)):
            count = pyro.sample("count", Binomial(2, torch.tensor(0.3)))
            kind = pyro.sample("kind", OneHotCategorical(torch.tensor([0.2, 0.5, 0.3])))
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.6)))
            pyro.sample("x", Normal(count + kind @ torch.tensor([0.0, 1.0, 3.0]) - coin, 1.0), obs=x)

    x = torch.tensor([0.5, 2.0])
    found = exact_posterior(program, x)
    table = torch.empty(2, 3, 3, 2, dtype=torch.float64)
    for count in range(3):
        for kind in range(3):
            for coin in range(2):
                prior = math.comb(2, count) * 0.3**count * 0.7 ** (2 - count) * [0.2, 0.5, 0.3][kind] * [0.4, 0.6][coin]
                mean = count + [0.0, 1.0, 3.0][kind] - coin
                table[:, count, kind, coin] = math.log(prior) - 0.5 * (x.double() - mean) ** 2 - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_px.double(), table.flatten(1).logsumexp(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.log_p.exp().double(), table.flatten(1).softmax(1), rtol=1e-4, atol=1e-6)
    layout = found.layout
    values = layout.unpack(found.codes.unsqueeze(1).expand(-1, 2, -1))
    assert values["kind"].shape == (18, 2, 3)
    assert {name: value.dtype for name, value in values.items()} == {"count": torch.float32, "kind": torch.float32, "coin": torch.float32}
    torch.testing.assert_close(layout.pack({name: value[7] for name, value in values.items()}), found.codes[7].expand(2, -1))


def test_a_masked_variable_is_uniform_and_p_x_is_that_of_the_shorter_sequence():
    def program(x, lengths, steps):
        with pyro.plate("data", len(x)):
            z = torch.zeros((), dtype=torch.long)
            for t in range(steps):
                with pyro.poutine.mask(mask=t < lengths):
                    z = pyro.sample(f"z_{t}", Categorical(hidden_markov.TRANSITION[z]))
                    pyro.sample(f"x_{t}", Categorical(hidden_markov.EMISSION[z]), obs=x[:, t])

    x, lengths = torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([3, 1])
    both = exact_posterior(program, x, lengths, 3)
    for row, length in enumerate(lengths.tolist()):
        alone = exact_posterior(program, x[row : row + 1], lengths[row : row + 1], length)
        torch.testing.assert_close(both.log_px[row], alone.log_px[0])
        repeated = alone.log_p[0].repeat_interleave(3 ** (3 - length)) - (3 - length) * math.log(3)
        torch.testing.assert_close(both.log_p[row], repeated)


def test_too_many_values_are_refused_before_memory_is():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Categorical(torch.ones(40, 10)).to_event(1))
            pyro.sample("x", Normal(z.sum(-1).float(), 1.0), obs=x)

    with pytest.raises(TooManyCodes, match="1e\\+40|1.00e\\+40"):
        exact_posterior(program, torch.zeros(2))


def test_samples_may_be_scored_one_by_one():
    x = mixture.data(3, 1)
    together, singly = (Program(mixture.program, ((x,), {}), vectorized=vectorized) for vectorized in (True, False))
    z = torch.randint(3, (4, 3, 5))
    torch.testing.assert_close(together.log_joint(None, z), singly.log_joint(None, z))
    assert together.log_joint(None, z[0]).shape == (3,)
