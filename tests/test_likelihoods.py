"""Likelihoods against torch.distributions and scipy; each is a distribution (sums or integrates to one), and its samples follow it."""

import pytest
import scipy.stats
import torch
from torch import distributions as td

from latentcomp.enumeration import all_codes
from latentcomp.likelihoods import Bernoulli, Categorical, DiscretisedLogistic, Gaussian, Laplace, Likelihood
from latentcomp.noise import Noise
from tests.frequencies import LEVEL, assert_frequencies

S, B, H, W = 2, 3, 2, 2
MADE = {
    "bernoulli": Bernoulli,
    "gaussian": lambda: Gaussian(0.7),
    "laplace": lambda: Laplace(0.7),
    "logistic": lambda: DiscretisedLogistic(levels=5),
    "categorical": lambda: Categorical(4),
}
CHANNELS = {"bernoulli": 1, "gaussian": 1, "laplace": 1, "logistic": 2, "categorical": 4}


def likelihood(name: str, dtype: torch.dtype = torch.float64) -> Likelihood:
    return MADE[name]().to(dtype)


@pytest.fixture(params=MADE)
def name(request) -> str:
    return request.param


def decoded(name: str, *leading: int, size: tuple[int, int] = (H, W), seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """A decoder's output ``(*leading, C', H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(*leading, CHANNELS[name], *size, generator=generator, dtype=torch.float64)
    if name == "logistic":  # scales below the step between levels
        parameters = parameters * 0.4 + torch.tensor([0.5, -2.0], dtype=torch.float64).view(2, 1, 1)
    return parameters.to(dtype)


def images(name: str, rows: int = B) -> torch.Tensor:
    """Images in the support."""
    u = torch.rand(rows, 1, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return {"bernoulli": u.round(), "logistic": (u * 4).round() / 4, "categorical": (u * 4).floor()}.get(name, 3 * u)


def oracle(name: str, parameters: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """log p of each pixel ``(*leading, 1, H, W)``, from other people's code."""
    if name == "categorical":
        return td.Categorical(logits=parameters.movedim(-3, -1)).log_prob(x[..., 0, :, :]).unsqueeze(-3)
    if name == "logistic":
        location, scale = parameters[..., :1, :, :], parameters[..., 1:, :, :].exp()
        upper, lower = (torch.as_tensor(scipy.stats.logistic.cdf(x + d, location, scale)) for d in (0.125, -0.125))
        return (torch.where(x == 1, 1.0, upper) - torch.where(x == 0, 0.0, lower)).log()
    made = {
        "bernoulli": lambda: td.Bernoulli(logits=parameters),
        "gaussian": lambda: td.Normal(parameters, 0.7),
        "laplace": lambda: td.Laplace(parameters, 0.7),
    }
    return made[name]().log_prob(x)


@pytest.mark.parametrize("leading", [(B,), (S, B)])
def test_log_prob_equals_another_implementation_and_broadcasts_over_samples(name, leading):
    parameters, x = decoded(name, *leading), images(name)
    p = likelihood(name)(parameters)
    assert (p.batch_shape, p.event_shape) == (leading, (1, H, W))
    torch.testing.assert_close(p.log_prob_pixels(x), oracle(name, parameters, x), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(p.log_prob(x), oracle(name, parameters, x).sum((-3, -2, -1)), rtol=1e-5, atol=1e-6)


def test_cross_log_prob_is_log_prob_of_every_pair(name):
    p, x = likelihood(name)(decoded(name, 6)), images(name)
    expected = torch.stack([torch.stack([likelihood(name)(decoded(name, 6)[m : m + 1]).log_prob(x[b : b + 1])[0] for m in range(6)]) for b in range(B)])
    torch.testing.assert_close(p.cross_log_prob(x), expected)


@pytest.mark.parametrize(("name", "values"), [("bernoulli", 2), ("logistic", 5), ("categorical", 4)])
def test_discrete_images_sum_to_one(name, values):
    x = all_codes((values,) * (H * W)).view(-1, 1, H, W).double() / (values - 1 if name == "logistic" else 1)
    p = likelihood(name)(decoded(name, 3))
    torch.testing.assert_close(p.cross_log_prob(x).exp().sum(0), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("levels", [2, 16, 256])
@pytest.mark.parametrize("log_scale", [-9.0, -7.0, -2.0, 3.0])
def test_logistic_levels_sum_to_one_at_every_scale(levels, log_scale):
    location = torch.tensor([-3.0, 0.0, 0.2, 0.5, 1.0, 7.0], dtype=torch.float64).view(6, 1, 1, 1)
    p = DiscretisedLogistic(levels)(torch.cat([location, torch.full_like(location, log_scale)], 1))
    x = (torch.arange(levels, dtype=torch.float64) / (levels - 1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(p.cross_log_prob(x).exp().sum(0), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_densities_integrate_to_one(name):
    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    density = likelihood(name)(decoded(name, 1, size=(1, 1))).cross_log_prob(x.view(-1, 1, 1, 1)).exp()[:, 0]
    torch.testing.assert_close(torch.trapezoid(density, x), torch.tensor(1.0, dtype=torch.float64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_samples_follow_the_distribution(name, dtype):
    p = likelihood(name, dtype)(decoded(name, 2, size=(1, 2), dtype=dtype))
    x = p.sample((1500,), Noise(0, 0, torch.arange(2)))
    assert (x.shape, x.requires_grad) == ((1500, 2, 1, 1, 2), False)
    for row in range(2):
        for column in range(2):
            drawn = x[:, row, 0, 0, column]
            if name in ("gaussian", "laplace"):
                cdf = {"gaussian": scipy.stats.norm, "laplace": scipy.stats.laplace}[name](float(p.mean[row, 0, 0, column]), 0.7).cdf
                assert scipy.stats.kstest(drawn.double().numpy(), cdf).pvalue > LEVEL
                continue
            values = {"bernoulli": [0.0, 1.0], "logistic": [0.0, 0.25, 0.5, 0.75, 1.0], "categorical": [0, 1, 2, 3]}[name]
            log_p = torch.stack([p.log_prob_pixels(torch.full((1, 1, 1, 2), v))[row, 0, 0, column] for v in values])
            assert_frequencies((drawn.unsqueeze(-1) == torch.tensor(values)).double().argmax(-1), log_p.exp())


def test_rows_draw_the_same_in_a_batch_and_in_its_halves_and_with_the_global_seed(name):
    parameters, index = decoded(name, S, 4), torch.tensor([5, 2, 9, 1])
    whole = likelihood(name)(parameters).sample((), Noise(0, 0, index))
    halves = [likelihood(name)(parameters[:, half]).sample((), Noise(0, 0, index[half])) for half in (slice(0, 2), slice(2, 4))]
    assert torch.equal(whole, torch.cat(halves, 1))
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        draws.append(likelihood(name)(parameters).sample((3,)))
    assert torch.equal(*draws)


@pytest.mark.parametrize("extreme", [-50.0, 50.0])
def test_values_and_gradients_are_finite_at_extreme_outputs(name, extreme):
    """In float32, far from the image, with scales as small and as large as a decoder may give."""
    for sign in (1.0, -1.0):
        parameters = torch.full((B, CHANNELS[name], H, W), extreme)
        parameters[:, -1] *= sign
        log_p = likelihood(name, torch.float32)(parameters.requires_grad_()).log_prob(images(name).float())
        (gradient,) = torch.autograd.grad(log_p.sum(), parameters)
        assert log_p.isfinite().all()
        assert gradient.isfinite().all()


def test_half_precision_outputs_are_scored_in_float32(name):
    scored, parameters, x = likelihood(name, torch.float32), decoded(name, B, dtype=torch.bfloat16), images(name).float()
    log_p = scored(parameters).log_prob(x)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p, scored(parameters.float()).log_prob(x))
    with torch.autocast("cpu", torch.bfloat16):
        crossed = scored(parameters).cross_log_prob(x)
    torch.testing.assert_close(crossed.diagonal(), log_p)


def test_a_scale_is_learned_only_if_it_is_asked_for():
    for kind in (Gaussian, Laplace):
        assert not any(p.requires_grad for p in kind(0.5).parameters())
        learned, x = kind(0.5, learned=True), images("gaussian").float()
        learned(torch.zeros_like(x)).log_prob(x).sum().backward()
        assert learned.log_scale.grad.abs() > 0


def test_the_image_to_show():
    assert torch.equal(Bernoulli()(decoded("bernoulli", B)).mean, decoded("bernoulli", B).sigmoid())
    assert torch.equal(Gaussian()(decoded("gaussian", B)).mean, decoded("gaussian", B))
    assert torch.equal(DiscretisedLogistic()(decoded("logistic", B)).mean, decoded("logistic", B)[:, :1].clamp(0, 1))
    assert torch.equal(Categorical(4)(decoded("categorical", B)).mean, decoded("categorical", B).argmax(1, keepdim=True).double())
