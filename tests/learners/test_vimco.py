"""VIMCO: the estimate averages to the gradient of the bound itself, summed over all tuples of codes."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.vimco import Vimco
from latentcomp.phases.behaviour import Exploring
from latentcomp.phases.e_step import MultiSample
from latentcomp.phases.schedule import Period, Threshold
from tests.learners.tuples import Given, TablePosterior, expected_gradient, gradient, log_q_table, tuples
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(1)


def bound(model, q, x: torch.Tensor, samples: int) -> torch.Tensor:
    """E_q[log (1/S) sum_s p(x, z_s) / q(z_s|x)] of one image: all S-tuples, written out, with a gradient in theta and phi."""
    log_q, log_joint = log_q_table(q(model, x))[0], brute_force_log_joint(model, x)[0]
    rows = torch.cartesian_prod(*[torch.arange(len(log_q))] * samples).view(-1, samples)
    log_w = (log_joint - log_q)[rows]
    return (log_q[rows].sum(-1).exp() * (log_w.exp().mean(-1)).log()).sum()


def learner_of(samples: int, schedule=None) -> Vimco:
    learner = Vimco(posterior("prefix_mlp", codes=2), samples, schedule)
    learner.behaviour = Given(samples)
    return learner


@pytest.mark.parametrize("samples", [2, 3])
def test_its_expected_gradient_is_that_of_the_bound_in_theta_and_phi(samples):
    model, learner = tiny_model(codes=2, learned_prior=True), learner_of(samples)
    everything = [*model.parameters(), *learner.parameters()]
    wanted = gradient(-bound(model, learner.posterior, X, samples), everything)
    torch.testing.assert_close(expected_gradient(learner, model, X, everything), wanted)
    assert wanted.norm() > 0.1


def test_the_e_step_alone_has_its_part_in_phi():
    model, learner = tiny_model(codes=2), learner_of(2, Period(1, 1))
    phi = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, phi), gradient(-bound(model, learner.posterior, X, 2), phi))


def test_the_exact_posterior_is_stationary_for_every_tuple():
    """All weights are p(x): each sample adds nothing to what the others say."""
    model = tiny_model(codes=2)
    q = TablePosterior(X, brute_force_log_joint(model, X).detach())
    learner = Vimco(q, 3)
    learner.behaviour = Given(3)
    total = torch.zeros(q.logits.numel()).double()
    for codes, p in tuples(q(model, X), 3):
        learner.behaviour.codes = codes
        loss = next(learner.losses(model, Batch(X)))
        torch.testing.assert_close(loss.metrics["bound"], brute_force_log_joint(model, X).detach().logsumexp(-1)[0])
        total += p * gradient(loss.value, [q.logits])
    assert total.abs().max() < 1e-12


def test_x_is_encoded_once_and_each_sample_decoded_once():
    model, learner, calls = tiny_model(), Vimco(posterior("prefix_mlp"), 5), []
    learner.posterior.trunk.register_forward_hook(lambda *_: calls.append(1))
    before = model.decoder_evaluations
    next(learner.losses(model, Batch(X)))
    assert len(calls) == 1
    assert model.decoder_evaluations - before == 5


def test_one_sample_other_behaviours_and_thresholds_are_refused():
    with pytest.raises(ValueError, match="MultiSample compares samples of one datum.*at least 2; the behaviour draws 1"):
        Vimco(posterior("prefix_mlp"), 1)
    with pytest.raises(ValueError, match="Threshold compares.*the value of MultiSample says nothing"):
        Vimco(posterior("prefix_mlp"), 4, Threshold(1.0))
    with pytest.raises(ValueError, match="the bound of S samples is over samples of q; Exploring samples are not: use OnPolicy, or WakePhi"):
        GFlowNetEM(posterior("prefix_mlp"), MultiSample(), Exploring(4))
