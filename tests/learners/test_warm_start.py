"""A warm start: the quantiser's own update and a distillation of its codes, and from the given step on the second learner, bit for bit."""

import copy

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.warm_start import WarmStart
from latentcomp.phases.sleep import Sleep
from tests.learners.contract import X, assert_same, batches, state, trained
from tests.learners.tuples import gradient, log_q_table
from tests.scenarios import posterior, tiny_model


def learner(steps: int) -> WarmStart:
    torch.manual_seed(0)
    return WarmStart(StraightThrough(posterior("nearest_code")), GFlowNetEM(posterior("prefix_mlp"), sleep=Sleep()), steps).double()


def test_first_the_quantiser_s_loss_and_the_log_probability_of_its_codes():
    model, warm = tiny_model(), learner(1)
    quantised, distilled = warm.losses(model, Batch(X))
    (alone,) = warm.quantiser.losses(model, Batch(X))
    everything = [*model.parameters(), *warm.parameters()]
    torch.testing.assert_close(gradient(quantised.value, everything), gradient(alone.value, everything))
    assert quantised.term == alone.term
    h = warm.quantiser.posterior(model, X).h
    z = (h.unsqueeze(-2) - model.codebook.weight).square().sum(-1).argmin(-1)
    rows = z @ torch.tensor([3, 1])
    wanted = -log_q_table(warm.posterior(model, X))[torch.arange(len(X)), rows].mean()
    torch.testing.assert_close(gradient(distilled.value, everything), gradient(wanted, everything))
    assert distilled.term == "distillation"


@pytest.mark.parametrize("steps", [0, 2])
def test_afterwards_the_second_learner_goes_on_alone(steps):
    """From the same parameters at the same step, it is the second learner by itself, whose noise is a function of (seed, step)."""
    model, warm = tiny_model(), learner(steps)
    trained(model, warm, batches(steps))
    assert warm.step == steps
    model_alone, alone = copy.deepcopy(model), copy.deepcopy(warm.learner)
    alone.seed, alone.step = warm.seed, warm.step
    metrics, metrics_alone = (trained(*pair, batches(steps + 3, start=steps)) for pair in ((model, warm), (model_alone, alone)))
    for a, b in zip(metrics, metrics_alone, strict=True):
        assert_same(a, b)
    assert_same(state(model), state(model_alone))
    assert_same(state(warm.posterior), state(alone.posterior))


def test_it_judges_and_samples_with_the_second_posterior():
    warm = learner(1)
    assert warm.posterior is warm.learner.posterior
    assert warm.posterior is not warm.quantiser.posterior
