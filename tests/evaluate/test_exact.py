"""Exact answers against loops over all codes, and the identity that ties the own bound to the exact likelihood."""

import math

import pytest
import torch

from latentcomp import enumeration
from latentcomp.evaluate.exact import exact, log_px
from latentcomp.posteriors.exact import Exact as ExactPosterior
from latentcomp.posteriors.exact import Mode
from tests.scenarios import Perceptual, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(5)
KINDS = ["factorised", "softmax_distance", "prefix_mlp", "transformer", "nearest_code"]


@pytest.mark.parametrize("learned_prior", [False, True], ids=["uniform", "learned"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_the_sum_written_out(kind, learned_prior):
    model, q = tiny_model(learned_prior=learned_prior), posterior(kind)
    result = exact(model, q, X)
    log_joint, log_q = brute_force_log_joint(model, X).tolist(), q(model, X).table().tolist()
    for b in range(len(X)):
        p_x = math.fsum(math.exp(value) for value in log_joint[b])
        p = [math.exp(value) / p_x for value in log_joint[b]]
        r = [math.exp(value) for value in log_q[b]]
        assert float(result.log_px[b]) == pytest.approx(math.log(p_x))
        assert float(result.elbo[b]) == pytest.approx(math.fsum(s * (j - math.log(s)) for s, j in zip(r, log_joint[b], strict=True) if s > 0))
        assert float(result.kl_q_p[b]) == pytest.approx(math.fsum(s * math.log(s / t) for s, t in zip(r, p, strict=True) if s > 0))
        reverse = math.inf if min(r) == 0 else math.fsum(t * math.log(t / s) for s, t in zip(r, p, strict=True))
        assert float(result.kl_p_q[b]) == pytest.approx(reverse)
        assert float(result.tv[b]) == pytest.approx(math.fsum(abs(s - t) for s, t in zip(r, p, strict=True)) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_own_bound_exceeds_the_exact_nll_by_the_kl(kind):
    model = tiny_model()
    result = exact(model, posterior(kind), X)
    torch.testing.assert_close(result.log_px - result.elbo, result.kl_q_p)
    assert (result.kl_q_p > 0).all()


def test_a_point_mass_on_the_best_code():
    model = tiny_model()
    result = exact(model, Mode(ExactPosterior()), X)
    best = brute_force_log_joint(model, X).softmax(-1).max(-1).values
    torch.testing.assert_close(result.kl_q_p, -best.log())
    torch.testing.assert_close(result.tv, 1 - best)
    assert result.kl_p_q.isinf().all()


def test_the_exact_posterior_is_exact():
    result = exact(tiny_model(), ExactPosterior(), X)
    torch.testing.assert_close(result.elbo, result.log_px)
    for distance in (result.kl_q_p, result.kl_p_q, result.tv):
        assert distance.abs().max() < 1e-12


def test_probabilities_of_all_images_sum_to_one():
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6).view(-1, 1, 2, 3)
    assert float(log_px(tiny_model(learned_prior=True), images).exp().sum()) == pytest.approx(1)


def test_float32_models_are_summed_in_float64():
    result = exact(tiny_model().float(), posterior("factorised").float(), X.float())
    assert all(value.dtype == torch.float64 for value in result)
    torch.testing.assert_close(result.log_px - result.elbo, result.kl_q_p, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ask", [log_px, lambda model, x: exact(model, posterior("factorised"), x)], ids=["log_px", "exact"])
def test_what_has_no_exact_answer_is_refused(ask, monkeypatch):
    with pytest.raises(ValueError, match="pixels 0 and 1"):
        ask(tiny_model(), X + 0.5)
    model = tiny_model()
    model.likelihood = Perceptual()
    with pytest.raises(ValueError, match="Perceptual is an unnormalised energy: its sums are no likelihood"):
        ask(model, X)
    monkeypatch.setattr(enumeration, "LIMIT", 8)
    with pytest.raises(enumeration.TooManyCodes, match="2 sites with up to 3 codes make 9 code sequences.*estimate instead"):
        ask(tiny_model(), X)
