"""REINFORCE: the estimate averages to the gradient of KL(q || p(z|x)), on-policy and off."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.phases.behaviour import Behaviour, OnPolicy
from latentcomp.phases.e_step import LogVariance
from tests.learners.tuples import Given, expected_gradient, gradient, kl
from tests.scenarios import posterior, tiny_images, tiny_model

X = tiny_images(1)


@pytest.mark.parametrize("kind", ["factorised", "softmax_distance", "prefix_mlp", "transformer"])
@pytest.mark.parametrize("exploration", [(0.0, 1.0), (0.3, 1.7)], ids=["on_policy", "off_policy"])
def test_expected_gradient_is_that_of_the_kl(kind, exploration):
    model, learner = tiny_model(), Reinforce(posterior(kind), Given(2, *exploration))
    phi = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, phi), gradient(kl(model, learner.posterior, X), phi))


def test_three_samples_have_the_same_expected_gradient():
    model, learner = tiny_model(codes=2), Reinforce(posterior("prefix_mlp", codes=2), Given(3, 0.2))
    phi = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, phi), gradient(kl(model, learner.posterior, X), phi))


def test_one_sample_has_no_other_for_a_baseline_and_is_refused():
    with pytest.raises(ValueError, match="LeaveOneOut compares samples of one datum.*at least 2; the behaviour draws 1: set samples=2"):
        Reinforce(posterior("prefix_mlp"), OnPolicy(1))


class Kernel(Behaviour):
    """Draws codes as a Markov kernel would: without a density."""

    on_policy = False

    def forward(self, model, q: CodeDistribution, batch: Batch, noise) -> tuple[torch.Tensor, None]:
        """Any codes."""
        return q.sample((self.samples,), noise), None


def test_a_behaviour_without_a_density_is_refused():
    learner = Reinforce(posterior("prefix_mlp"), Kernel(2))
    with pytest.raises(ValueError, match=r"LeaveOneOut weighs samples by the density.*Kernel has none: use it with LogVariance or TrajectoryBalance"):
        next(learner.losses(tiny_model(), Batch(X)))


def test_but_objectives_that_need_no_density_take_it():
    learner = GFlowNetEM(posterior("prefix_mlp"), LogVariance(), Kernel(2))
    assert next(learner.losses(tiny_model(), Batch(X))).value.isfinite()
