"""Which sites a guide holds, which plate counts the data, and what is refused, by name."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical, Normal, Poisson

from latentcomp.pyro import UnsupportedModel, exact_posterior
from latentcomp.pyro.program import Program

X = torch.zeros(4)
COIN = Bernoulli(torch.tensor(0.4))


def plain(x):
    """A coin behind a number."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z, 1.0), obs=x)


def test_the_data_plate_is_the_one_that_all_sites_share():
    def program(x):
        pixels = pyro.plate("pixels", 3, dim=-1)
        with pyro.plate("rows", len(x), dim=-2):
            kind = pyro.sample("kind", Categorical(torch.ones(3)))
            with pixels:
                own = pyro.sample("own", COIN)
                pyro.sample("x", Normal(own + kind, 1.0), obs=x)

    layout = Program(program, ((torch.zeros(4, 3),), {})).layout
    assert (layout.plate, layout.dim, layout.nesting) == ("rows", -2, 2)
    assert layout.cardinalities == (3, 2, 2, 2)


def test_observations_decide_between_plates_that_hold_all_latent_sites():
    def program(x):
        with pyro.plate("data", len(x), dim=-1):
            with pyro.plate("causes", 3, dim=-2):
                z = pyro.sample("z", COIN)
            pyro.sample("x", Normal(z.sum(-2), 1.0), obs=x)

    layout = Program(program, ((X,), {})).layout
    assert (layout.plate, layout.dim) == ("data", -1)
    z = torch.arange(2).repeat(6).view(1, 4, 3)
    assert torch.equal(layout.pack({"z": layout.unpack(z)["z"][0]}), z[0])
    assert exact_posterior(program, X).log_p.shape == (4, 8)


def ambiguous(x):
    """All sites in both plates."""
    with pyro.plate("rows", 4, dim=-1), pyro.plate("columns", 2, dim=-2):
        z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z, 1.0), obs=torch.zeros(2, 4))


def test_an_unclear_data_plate_is_asked_for():
    with pytest.raises(UnsupportedModel, match=r"\['columns', 'rows'\].*plate='columns'"):
        Program(ambiguous, ((X,), {}))
    assert Program(ambiguous, ((X,), {}), plate="rows").cardinalities == (2, 2)
    assert Program(ambiguous, ((X,), {}), plate="columns").size == 2


def continuous(x):
    """A real number inside the plate."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", COIN)
        pyro.sample("height", Normal(0.0, 1.0))


def infinite(x):
    """A count without a bound."""
    with pyro.plate("data", len(x)):
        pyro.sample("count", Poisson(torch.tensor(2.0)))


def outside(x):
    """One coin for all data."""
    coin = pyro.sample("shared", COIN)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z + coin, 1.0), obs=x)


def loop(x):
    """A plate that is a Python loop."""
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z_{i}", COIN)


def stray(x):
    """An axis that belongs to no plate."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Bernoulli(torch.full((3, 1), 0.5)))
        pyro.sample("x", Normal(z.sum(0), 1.0), obs=x)


def tempered(x):
    """The prior weighs half."""
    with pyro.plate("data", len(x)):
        with poutine.scale(scale=0.5):
            z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z, 1.0), obs=x)


def weighted(x):
    """Each datum has its own weight."""
    with pyro.plate("data", len(x)), poutine.scale(scale=torch.arange(1.0, 5.0)):
        z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z, 1.0), obs=x)


def leaking(x):
    """Something outside the plate depends on the coins inside."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", COIN)
        pyro.sample("x", Normal(z, 1.0), obs=x)
    pyro.sample("sum", Normal(z.sum(-1, keepdim=True), 1.0).to_event(0), obs=torch.zeros(1))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (continuous, "'height'.*is continuous.*separate guide.*poutine.block"),
        (infinite, "'count'.*infinite support"),
        (outside, "'shared' lies outside the data plate.*pyro.plate.*separate guide"),
        (loop, "sequential plate 'data'"),
        (stray, "'z'.*belong to no plate"),
        (tempered, "different scales"),
        (weighted, "'z' has a scale for each datum"),
        (leaking, "'sum' lies outside the data plate and depends on latent values"),
        (lambda x: None, "no latent sites"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(program, message):
    with pytest.raises(UnsupportedModel, match=message):
        exact_posterior(program, X)


def test_a_plate_that_does_not_exist_is_named():
    with pytest.raises(UnsupportedModel, match=r"no plate named 'date'; it has \['data'\]"):
        Program(plain, ((X,), {}), plate="date")


def test_hidden_sites_are_not_seen():
    blocked = poutine.block(outside, hide=["shared"])
    assert Program(blocked, ((X,), {})).cardinalities == (2,)


def test_a_scale_that_all_share_and_subsampling_leave_the_posterior_alone():
    scaled = poutine.scale(plain, scale=3.0)
    assert Program(scaled, ((X,), {})).scale == 3.0
    torch.testing.assert_close(exact_posterior(scaled, X).log_px, exact_posterior(plain, X).log_px)

    def subsampled(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", COIN)
            pyro.sample("x", Normal(z, 1.0), obs=x[index])

    x = torch.arange(10.0)
    program = Program(subsampled, ((x,), {}))
    assert program.scale == 5.0
    assert program.size == 2
    torch.testing.assert_close(exact_posterior(program).log_px, exact_posterior(plain, x).log_px[program.index])
    torch.testing.assert_close(program.features()[:, 0], x[program.index])


def test_what_is_observed_outside_the_plate_counts_once():
    def program(x):
        pyro.factor("penalty", torch.tensor(-2.5))
        plain(x)

    found = Program(program, ((X,), {}))
    log_joint = found.log_joint(None, torch.zeros(3, 4, 1, dtype=torch.long))
    assert float(found.outside) == -2.5
    torch.testing.assert_close(log_joint, Program(plain, ((X,), {})).log_joint(None, torch.zeros(3, 4, 1, dtype=torch.long)))


def test_features_are_one_hot_where_values_are_names_and_zero_where_they_are_masked():
    def program(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", COIN)
            pyro.sample("x", Normal(z, 1.0), obs=x)
            with poutine.mask(mask=y > 0):
                pyro.sample("y", Categorical(torch.ones(3)), obs=y)
            with poutine.mask(mask=False):
                pyro.sample("never", Normal(z, 1.0), obs=x)
            pyro.deterministic("double", 2 * z)

    features = Program(program, ((torch.tensor([5.0, 6.0]), torch.tensor([0, 2])), {})).features()
    assert torch.equal(features, torch.tensor([[5.0, 0, 0, 0, 0], [6.0, 0, 0, 1, 0]]))


def test_dreams_follow_the_program_and_are_refused_where_it_is_an_energy():
    pyro.set_rng_seed(0)
    x, z = Program(plain, ((torch.zeros(4000),), {})).sample(4000)
    assert z.float().mean() == pytest.approx(0.4, abs=0.04)  # five standard errors
    assert (x[:, 0] - z[:, 0]).mean() == pytest.approx(0.0, abs=0.08)

    def energy(x):
        with pyro.plate("data", len(x)):
            pyro.factor("penalty", -pyro.sample("z", COIN))

    with pytest.raises(UnsupportedModel, match="'penalty'.*unnormalised"):
        Program(energy, ((X,), {})).sample(4)
    with pytest.raises(ValueError, match="4 data"):
        Program(plain, ((X,), {})).sample(3)
