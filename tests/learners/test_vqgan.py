"""VQGAN without a critic is the learner that it wraps."""

import pytest

from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.learners.learner import Learner
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vqgan import VQGAN
from latentcomp.phases.anneal import Exponential
from tests.learners.contract import assert_same, batches, state, trained
from tests.scenarios import posterior, tiny_model


def gumbel() -> Learner:
    return GumbelSoftmax(posterior("factorised"), Relaxation(Exponential(1.0, 0.1, 5)))


@pytest.mark.parametrize("base", [lambda: StraightThrough(posterior("nearest_code")), gumbel], ids=["straight_through", "gumbel_softmax"])
def test_it_trains_as_the_learner_that_it_wraps(base):
    runs = []
    for wrap in (lambda learner: learner, VQGAN):
        model, learner = tiny_model(), wrap(base().double())
        learner.seed = 4
        metrics = trained(model, learner, batches(4))
        runs.append((state(model, learner.posterior), metrics))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert learner.step == learner.learner.step == 4


def test_a_nearest_code_posterior_stands_for_straight_through():
    q = posterior("nearest_code")
    learner = VQGAN(q)
    assert isinstance(learner.learner, StraightThrough)
    assert learner.posterior is q
    assert len(list(learner.parameters())) == len(list(q.parameters()))
    assert learner.learner.commitment_weight == 0.25
