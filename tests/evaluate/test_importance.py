"""Importance sampling against enumeration, and its diagnostics against closed forms and simulated tails."""

import math

import pytest
import torch
from torch import nn

from latentcomp.codebook.codebook import Codebook
from latentcomp.evaluate import importance
from latentcomp.evaluate.exact import log_px as exact_log_px
from latentcomp.model import LatentVariableModel, with_prior
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.priors import Autoregressive, Uniform
from tests.scenarios import Perceptual, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(3)
KINDS = pytest.mark.parametrize("kind", ["factorised", "transformer", "nearest_code"])


def weights(model, q) -> tuple[torch.Tensor, torch.Tensor]:
    """The mixture 0.9 q + 0.1 p(z) and w = p(x, z) / mixture, of all codes: ``(B, M)``."""
    log_joint = brute_force_log_joint(model, X).detach()
    prior = model.prior().table().detach()
    mixture = 0.9 * q(model, X).table().detach().exp() + 0.1 * prior.exp()
    return mixture, log_joint.exp() / mixture


@KINDS
@pytest.mark.usefixtures("unchecked")
def test_the_estimate_averages_to_p_of_x(kind):
    """Within four standard errors over 200 repeats, each at most 0.02 nats; a point mass that misses nearly all codes included."""
    model, q = tiny_model(learned_prior=True), posterior(kind)
    log_p = exact_log_px(model, X)
    ratios = torch.stack([(importance.log_px(model, q, X, samples=150, seed=seed).log_px - log_p).exp() for seed in range(200)])
    error = ratios.std(0) / 200**0.5
    assert error.max() < 0.02
    assert ((ratios.mean(0) - 1).abs() < 4 * error).all()
    assert ratios.log().mean() < 0  # the logarithm is a lower bound


@KINDS
def test_weights_are_those_of_the_mixture_and_bounded(kind):
    model, q = tiny_model(learned_prior=True), posterior(kind)
    log_w = importance.log_weights(model, q, X, 500, seed=1)
    z = importance.draws(model, q, X, 500, seed=1).z
    wanted = weights(model, q)[1].log()
    torch.testing.assert_close(log_w, wanted.gather(1, (z @ torch.tensor([3, 1])).T).T)
    log_likelihood = (brute_force_log_joint(model, X) - model.prior().table()).max(-1).values
    assert (log_w <= log_likelihood + math.log(10) + 1e-9).all()


@KINDS
def test_standard_error_and_effective_sample_size_are_those_of_the_weights(kind):
    """With many samples, by sums over all codes: a tenth of the samples is the prior's, so the variance is 0.1 Var_p[w] + 0.9 Var_q[w]; M E[w]^2 / E[w^2]."""
    model, q, samples = tiny_model(learned_prior=True), posterior(kind), 20000
    r, w = weights(model, q)
    mean, square = (r * w).sum(-1), (r * w.square()).sum(-1)
    given = importance.log_px(model, q, X, samples=samples, seed=3, chunk=100000)
    parts = ((0.1, model.prior().table().detach().exp()), (0.9, q(model, X).table().detach().exp()))
    variance = sum(share * ((part * w.square()).sum(-1) - (part * w).sum(-1).square()) for share, part in parts)
    torch.testing.assert_close(given.stderr, (variance / mean.square() / samples).sqrt(), rtol=0.05, atol=0)
    torch.testing.assert_close(given.ess, samples * mean.square() / square, rtol=0.05, atol=0)
    assert ((given.log_px - exact_log_px(model, X)).abs() < 5 * given.stderr).all()


def test_a_proposal_that_is_right_has_nearly_equal_weights():
    """The mixture's tenth of prior samples alone keeps them from being equal."""
    model = tiny_model()
    given = importance.log_px(model, Exact(), X, samples=1000)
    assert (given.ess > 850).all()
    assert (given.stderr < 0.02).all()
    assert (given.log_px - exact_log_px(model, X)).abs().max() < 0.05


def test_neither_chunks_nor_company_change_an_image_s_estimate():
    model, q = tiny_model(), posterior("prefix_mlp")
    whole = importance.log_px(model, q, X, samples=30, seed=2)
    for part in (importance.log_px(model, q, X, samples=30, seed=2, chunk=31), importance.log_px(model, q, X, samples=30, seed=2, chunk=1)):
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(importance.log_px(model, q, X[:2], samples=30, seed=2).log_px, whole.log_px[:2])
    assert not torch.equal(importance.log_px(model, q, X, samples=30, seed=4).log_px, whole.log_px)


def test_conditions_choose_the_prior():
    torch.manual_seed(0)
    prior = Autoregressive(CausalTransformer((3, 3), 4, width=8, layers=1, heads=2), nn.Linear(2, 4))
    model = LatentVariableModel(prior, Codebook(3, 2), tiny_model().decoder, tiny_model().likelihood).double()
    for parameter in prior.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    prior.condition.weight.data.mul_(20)
    x, c = X[:1].expand(2, -1, -1, -1), torch.eye(2).double()
    wanted = exact_log_px(model, x, c)
    given = importance.log_px(model, Exact(), x, c, samples=3000, seed=1)
    assert ((given.log_px - wanted).abs() < 5 * given.stderr).all()
    assert (wanted[0] - wanted[1]).abs() > 10 * given.stderr.max()


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_finds_the_shape_of_a_simulated_tail(k):
    """The excess of a generalised Pareto variable over a threshold has its shape. Ten tails of 300: a standard error of (1 + k) / sqrt(3000)."""
    shapes = []
    for seed in range(10):
        u = Noise(seed, 0, torch.arange(10000)).uniform((), (), torch.float64)
        shapes.append(float(importance.pareto_k(torch.log((u**-k - 1) / k))))
    assert sum(shapes) / 10 == pytest.approx(k, abs=4 * (1 + k) / 3000**0.5)


def test_pareto_k_of_bounded_and_of_equal_weights():
    u = Noise(0, 0, torch.arange(10000)).uniform((), (), torch.float64)
    assert importance.pareto_k(u.log()) < -0.5  # a uniform variable has the shape -1
    assert importance.pareto_k(torch.zeros(1000)) == -math.inf
    assert importance.pareto_k(torch.randn(10)) == -math.inf  # too few to say
    shifted = importance.pareto_k(u.log() + 700)
    torch.testing.assert_close(shifted, importance.pareto_k(u.log()))


@pytest.mark.parametrize("other", [False, True])
def test_bounds_on_dreams_bracket_the_exact_likelihood_and_close(other):
    """On average over 3,000 dreams, by more than three standard errors with two samples each; dreamt under the mixture's prior, or under another."""
    model, q = tiny_model(learned_prior=True), posterior("factorised")
    dreamer = with_prior(model, Uniform(len(model.cardinalities), model.cardinalities)) if other else model
    x, _ = dreamer.sample(3000, noise=Noise(5, importance.DREAMS, torch.arange(3000)))
    log_p, gaps = exact_log_px(dreamer, x), []
    for samples in (2, 40):
        lower, upper = importance.bounds_on_dreams(model, q, 3000, samples, seed=5, dreamer=dreamer)
        for gap in (log_p - lower, upper - log_p):
            assert samples > 2 or gap.mean() > 3 * gap.std() / 3000**0.5
        gaps.append(float((upper - lower).mean()))
    print(f"bounds on dreams: mean gap {gaps[0]:.3f} nats with 2 samples, {gaps[1]:.4f} with 40")
    assert 0 < gaps[1] < 0.2 * gaps[0]


def test_the_bounds_under_another_prior_are_of_the_estimate_that_is_printed():
    """The same samples and weights as log_px_under, whose mixture holds the first model's prior."""
    model, q = tiny_model(learned_prior=True), posterior("factorised")
    dreamer = with_prior(model, Uniform(len(model.cardinalities), model.cardinalities))
    x, _ = dreamer.sample(20, noise=Noise(5, importance.DREAMS, torch.arange(20)))
    lower, _ = importance.bounds_on_dreams(model, q, 20, 50, seed=5, dreamer=dreamer)
    estimate = importance.log_px_under(model, [dreamer.prior], q, x, samples=50, seed=5)[0]
    torch.testing.assert_close(lower, estimate.log_px)


def test_the_dreams_of_the_bounds_are_none_that_a_proposal_learns_from():
    """The keys of a fit are its updates, 0 and above; with the same seed, no dream comes twice."""
    model, seen = tiny_model(), []
    sample = model.sample
    model.sample = lambda rows, noise: seen.append(noise.uniform((), (3,))) or sample(rows, noise=noise)
    importance.bounds_on_dreams(model, posterior("factorised"), 20, 3, seed=5)
    (judged,) = seen
    fitted = torch.cat([Noise(5, update, torch.arange(20)).uniform((), (3,)) for update in range(50)])
    assert not (judged[:, None] == fitted).all(-1).any()


def test_what_cannot_be_estimated_is_refused():
    q, model = posterior("factorised"), tiny_model()
    with pytest.raises(ValueError, match="pixels 0 and 1"):
        importance.log_px(model, q, X + 0.5)
    model.likelihood = Perceptual()
    with pytest.raises(ValueError, match="Perceptual is an unnormalised energy: it has no likelihood in nats to estimate"):
        importance.log_px(model, q, X)
