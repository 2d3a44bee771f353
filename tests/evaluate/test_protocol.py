"""The protocol: the state of the best look is kept, and every number of a judgement agrees with enumeration."""

import math

import pytest
import torch

from latentcomp import enumeration
from latentcomp.data.split import Split
from latentcomp.evaluate import importance
from latentcomp.evaluate.exact import exact, log_px
from latentcomp.evaluate.protocol import judge
from latentcomp.evaluate.training import Budget, train
from latentcomp.learners.em import EM
from latentcomp.priors import Uniform
from tests.learners.contract import LEARNERS, adam, assert_same, made, state
from tests.scenarios import posterior, tiny_images, tiny_model

DATA = Split(tiny_images(40, 1), tiny_images(20, 2), tiny_images(30, 3))
BUDGET = Budget(updates=7, size=10, every=2, prior_updates=20, proposal_updates=60, samples=400, own_samples=400)


def test_train_restores_the_state_of_the_best_look(monkeypatch):
    model, learner = made("gflownet_log_variance")
    looks = iter([3.0, 1.0, 2.0, 1.5])
    monkeypatch.setattr("latentcomp.evaluate.run.validation_nll", lambda *_: next(looks))
    watched, states = [], []

    def watch(step: int, look: dict[str, float]) -> None:
        watched.append((step, look["val_nll"]))
        states.append(state(model, learner))

    training = train(model, learner, DATA, adam(model, learner), BUDGET, seed=5, watch=watch)
    assert watched == [(2, 3.0), (4, 1.0), (6, 2.0), (7, 1.5)]
    assert training.best_step == learner.step == 4
    assert learner.seed == 5
    assert_same(states[1], state(model, learner))
    assert not all(torch.equal(states[1][key], states[3][key]) for key in states[1])
    assert [look["step"] for look in training.curve] == [2, 4, 6, 7]
    assert training.seconds > 0


def test_train_looks_at_the_exact_validation_nll_and_counts_only_training():
    model, learner = tiny_model(), EM()
    training = train(model, learner, DATA, adam(model, learner), BUDGET)
    assert training.decoder_evaluations == model.decoder_evaluations == 7 * 9 * 2  # in each of seven steps nine codes, for the posterior and for the M-step
    best = min(training.curve, key=lambda look: look["val_nll"])
    assert best["step"] == training.best_step
    assert best["val_nll"] == pytest.approx(-float(log_px(model, DATA.validation).mean()))
    assert {"step", "val_nll", "seconds", "m_loss"} == set(best)


def test_train_refuses_validation_images_that_the_model_cannot_explain():
    model, learner = tiny_model(), EM()
    with pytest.raises(ValueError, match="pixels 0 and 1"):
        train(model, learner, DATA._replace(validation=DATA.validation / 2), adam(model, learner), BUDGET)


@pytest.mark.parametrize("name", [name for name in LEARNERS if name in ("em_soft", "vq_ema", "gumbel_soft", "reinforce", "reweighted_wake_sleep")])
def test_the_own_bound_exceeds_the_exact_nll_by_the_kl(name):
    model, learner = made(name)
    measures, fitted = judge(model, learner, DATA, BUDGET)
    own = "own_prior" if name in ("em_soft", "reweighted_wake_sleep") else "uniform_prior"
    for suffix, judged in (("", fitted), (f"_{own}", model)):
        nll, bound, kl = (measures[f"{metric}{suffix}"].value for metric in ("exact_nll", "own_bound", "kl_q_p"))
        assert abs(bound - nll - kl) < 1e-6
        result = exact(judged, learner.posterior, DATA.test)
        assert nll == pytest.approx(-float(result.log_px.mean()))
        assert measures[f"exact_nll{suffix}"].stderr == pytest.approx(float(result.log_px.std() / 30**0.5))
        assert measures[f"tv{suffix}"].value == pytest.approx(float(result.tv.mean()))
        assert (measures[f"kl_p_q{suffix}"].value is None) == name.startswith("vq")
    assert measures["val_nll"].value == pytest.approx(-float(log_px(model, DATA.validation).mean()))
    assert measures["val_nll_fitted_prior"].value == pytest.approx(-float(log_px(fitted, DATA.validation).mean()))
    assert 1 <= measures["perplexity"].value <= 3
    assert measures["codes_used"].value in (1 / 3, 2 / 3, 1.0)


def test_a_point_mass_has_no_reverse_kl_but_a_reason():
    model, learner = made("vq_gradient")
    measure = judge(model, learner, DATA, BUDGET).measures["kl_p_q"]
    assert measure.value is None
    assert measure.stderr is None
    assert measure.reason == "infinite: the posterior gives probability zero to codes that the exact posterior does not"


def test_judging_is_a_function_of_the_seed_and_changes_nothing():
    model, learner = made("gumbel_soft")
    before = state(model, learner)
    first, again, other = (judge(model, learner, DATA, BUDGET, seed=seed).measures for seed in (1, 1, 2))
    assert first == again
    assert first["exact_nll"] != other["exact_nll"]  # the second stage was fitted anew
    assert first["exact_nll_uniform_prior"] == other["exact_nll_uniform_prior"]
    assert_same(before, state(model, learner))


def test_too_many_codes_need_a_proposal(monkeypatch):
    model, learner = made("gumbel_soft")
    monkeypatch.setattr(enumeration, "LIMIT", 8)
    with pytest.raises(ValueError, match="9 code sequences are too many to enumerate, so log p.x. must be estimated: pass proposal="):
        judge(model, learner, DATA, BUDGET)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["vq_gradient", "gumbel_soft"])
def test_without_enumeration_the_estimate_is_near_the_exact_value(name, monkeypatch):
    """Within four standard errors of the mean over images; the bound from the learner's own samples near its exact own bound."""
    model, learner = made(name)
    exactly = {"uniform": (model, exact(model, learner.posterior, DATA.test))}
    bounds, tried = importance.bounds_on_dreams, []
    monkeypatch.setattr(importance, "bounds_on_dreams", lambda mixed, *rest, dreamer: tried.append((mixed, dreamer)) or bounds(mixed, *rest, dreamer=dreamer))
    monkeypatch.setattr(enumeration, "LIMIT", 8)
    measures, fitted = judge(model, learner, DATA, BUDGET, proposal=lambda: posterior("prefix_mlp"))
    monkeypatch.undo()
    assert [(mixed is fitted, dreamer is other) for (mixed, dreamer), other in zip(tried, (fitted, model), strict=True)] == [(True, True)] * 2
    exactly["fitted"] = (fitted, exact(fitted, learner.posterior, DATA.test))
    own = "_own_prior" if name == "vq_gradient" else "_uniform_prior"
    assert isinstance(model.prior, Uniform) == (own == "_uniform_prior")
    for suffix, (judged, result) in (("", exactly["fitted"]), (own, exactly["uniform"])):
        nll, error = measures[f"iw_nll{suffix}"].value, measures[f"iw_stderr{suffix}"].value
        assert abs(nll + float(log_px(judged, DATA.test).mean())) < 4 * error / math.sqrt(30) + 0.01
        assert measures[f"own_bound{suffix}"].value == pytest.approx(-float(result.elbo.mean()), abs=0.1)
        assert abs(measures[f"iw_nll_own_posterior{suffix}"].value + float(result.log_px.mean())) < 0.2
        assert 1 <= measures[f"ess{suffix}"].value <= 400
        assert -0.05 < measures[f"bound_gap{suffix}"].value < 0.5
    assert not any(metric.startswith(("exact", "kl", "tv")) for metric in measures)
    assert abs(measures["val_nll"].value + float(log_px(model, DATA.validation).mean())) < 0.3
