"""The second stage's prior and the proposal: what they learn, and what they leave alone."""

import pytest
import torch

from latentcomp.data.split import Split
from latentcomp.evaluate.exact import exact
from latentcomp.evaluate.fitting import _beside, fit_prior, fit_proposal, with_prior
from latentcomp.evaluate.protocol import default_prior
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.priors import Autoregressive, Uniform
from tests.learners.contract import assert_same, made, state
from tests.scenarios import Perceptual, posterior, tiny_images, tiny_model

DATA = Split(tiny_images(40, 1), tiny_images(20, 2), tiny_images(20, 3))


def test_with_prior_shares_all_else_and_leaves_the_model_alone():
    model = tiny_model(learned_prior=True)
    old, before = model.prior, state(model)
    other = with_prior(model, Uniform(2, 3))
    assert other.codebook is model.codebook
    assert other.decoder is model.decoder
    assert other.likelihood is model.likelihood
    assert isinstance(other.prior, Uniform)
    assert model.prior is old
    assert_same(before, state(model))
    z = torch.tensor([[0, 2]])
    torch.testing.assert_close(other.log_joint(DATA.test[:1], z), model.log_likelihood(DATA.test[:1], z) - 2 * torch.tensor([3.0]).double().log())
    other.decoder_evaluations += 100
    assert model.decoder_evaluations < 100


def empirical(model, q, x: torch.Tensor) -> torch.Tensor:
    """The average of q(z|x) over images: what a prior fitted to codes should become."""
    with torch.no_grad():
        return q(model, x).table().exp().mean(0)


def test_fit_prior_approaches_the_distribution_of_the_training_codes():
    """KL from the average posterior, before and after; validation and training images are the same here, so nothing stops it early."""
    torch.manual_seed(0)
    model, q = tiny_model(), posterior("softmax_distance")
    data = DATA._replace(validation=DATA.train)
    prior, before = default_prior(model), state(model, q)
    wanted = empirical(model, q, data.train)

    def distance() -> float:
        return float((wanted * (wanted.log() - prior().table())).sum())

    start = distance()
    fitted = fit_prior(model, q, data, prior, updates=150, rate=1e-2)
    print(f"second-stage prior: KL from the codes' distribution {start:.3f} before, {distance():.4f} after")
    assert start > 0.1
    assert distance() < 0.02
    assert fitted.prior is prior
    assert isinstance(model.prior, Uniform)
    assert_same(before, state(model, q))


def test_fit_prior_keeps_the_best_of_the_priors_it_passes():
    """With a rate that wrecks it, the first prior stays; with a sane one, the cross-entropy of held-out codes falls."""
    model, q = tiny_model(), Mode(Exact())
    codes, losses = q(model, DATA.validation).mode, {}
    for rate in (0.0, 1e-2, 1e3):
        torch.manual_seed(0)
        prior = Autoregressive(default_prior(model).network)
        fitted = fit_prior(model, q, DATA, prior, updates=40, rate=rate)
        losses[rate] = float(-fitted.prior().log_prob(codes).mean().detach())
    assert losses[1e3] == losses[0.0]
    assert losses[1e-2] < losses[0.0] - 0.02


def test_fit_prior_is_a_function_of_its_seed():
    model, q, tables = tiny_model(), posterior("factorised"), []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        tables.append(fit_prior(model, q, DATA, default_prior(model), updates=20, rate=1e-2, seed=seed).prior().table())
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


@pytest.mark.usefixtures("unchecked")
def test_fit_proposal_learns_the_posterior_of_a_model_that_it_leaves_bit_identical():
    model, q = tiny_model(learned_prior=True), posterior("prefix_mlp")
    before, counted = state(model), model.decoder_evaluations
    start = float(exact(model, q, DATA.train).kl_q_p.mean())
    evaluated = model.decoder_evaluations
    fitted = fit_proposal(model, q, updates=150, size=40, rate=1e-2, seed=1)
    assert model.decoder_evaluations == evaluated > counted  # the model's own count does not pay for it
    end = float(exact(model, fitted, DATA.train).kl_q_p.mean())
    print(f"proposal: mean KL(q || p(z|x)) {start:.3f} before, {end:.3f} after")
    assert fitted is q
    assert end < 0.5 * start
    assert_same(before, state(model))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_fit_proposal_refuses_a_model_that_cannot_dream():
    model, q = tiny_model(), posterior("factorised")
    model.likelihood = Perceptual()
    with pytest.raises(ValueError, match="unnormalised energy"):
        fit_proposal(model, q, updates=2)


def test_fit_proposal_takes_a_codebook_of_running_means_as_it_is():
    model, _ = made("vq_ema")
    before = state(model)
    fit_proposal(model, posterior("prefix_mlp"), updates=3, size=10)
    assert_same(before, state(model))
    assert model.codebook.averages


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_fitted_is_moved_to_where_the_model_lies(dtype):
    """A prior and a proposal as they are made, in float32 or on the CPU, against a model that a run has put elsewhere: here in another precision."""
    model, q = tiny_model().to(dtype), posterior("factorised").to(dtype)
    other = torch.float64 if dtype == torch.float32 else torch.float32
    data = DATA._replace(train=DATA.train.to(dtype), validation=DATA.validation.to(dtype))
    prior, proposal = default_prior(model).to(other), posterior("prefix_mlp").to(other)
    fitted = fit_prior(model, q, data, prior, updates=2)
    fit_proposal(model, proposal, updates=2, size=10)
    assert {parameter.dtype for part in (fitted, proposal) for parameter in part.parameters()} == {dtype}


def test_the_device_is_the_model_s_too():
    model = tiny_model().to("meta")
    assert {parameter.device.type for parameter in _beside(model, posterior("prefix_mlp")).parameters()} == {"meta"}
