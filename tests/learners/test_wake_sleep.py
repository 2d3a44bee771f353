"""Wake-sleep: the sleep phase averages to the forward KL over dreams; the bias of the wake phase, enumerated, falls with S."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.enumeration import all_codes
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.phases.e_step import WakePhi
from latentcomp.phases.m_step import ImportanceWeighted
from tests.learners.tuples import Given, TablePosterior, expected_gradient, gradient, log_q_table
from tests.scenarios import IMAGE, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)


def cross_entropy(model, q, x: torch.Tensor) -> torch.Tensor:
    """-E_p(z|x)[log q(z|x)], averaged over images: KL(p(z|x) || q) up to a constant."""
    return -(brute_force_log_joint(model, x).detach().softmax(-1) * log_q_table(q(model, x))).sum(-1).mean()


@pytest.mark.parametrize("exploration", [(0.0, 1.0), (0.3, 1.5)], ids=["on_policy", "off_policy"])
def test_the_bias_of_the_wake_phase_falls_with_the_number_of_samples(exploration):
    model, q = tiny_model(codes=2), posterior("prefix_mlp", codes=2)
    phi, biases = list(q.parameters()), []
    wanted = gradient(cross_entropy(model, q, X), phi)
    for samples in (1, 2, 3):
        learner = WakeSleep(q, WakePhi(), Given(2, *exploration))
        learner.behaviour.samples = samples  # a single sample is refused, and here is why
        given = expected_gradient(learner, model, X, phi)
        biases.append(float((given - wanted).norm() / wanted.norm()))
        assert samples > 1 or exploration != (0.0, 1.0) or given.abs().max() < 1e-12  # on-policy it teaches nothing
    print(f"wake-phi: bias over the norm of the gradient for S = 1, 2, 3 under (epsilon, temperature) = {exploration}: {[f'{b:.3f}' for b in biases]}")
    assert biases[0] > biases[1] > biases[2] > 0.01


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match="WakePhi compares samples of one datum.*at least 2; the behaviour draws 1: set samples=2 or more"):
        WakeSleep(posterior("factorised"), WakePhi(), Given(1))


@pytest.mark.parametrize("samples", [2, 3])
def test_the_bias_of_the_wake_phase_leaves_the_optimum_alone(samples):
    """On-policy at q = p(z|x) all weights are equal, and the expected gradient is zero."""
    model = tiny_model(codes=2)
    q = TablePosterior(X, brute_force_log_joint(model, X).detach())
    assert expected_gradient(WakeSleep(q, WakePhi(), Given(samples)), model, X, [q.logits]).abs().max() < 1e-12


def test_sleep_averages_to_the_cross_entropy_over_dreams(monkeypatch):
    """Every dream (x, z): all 64 images times all codes, weighed by p(x, z)."""
    model = tiny_model(1, 3, learned_prior=True)
    learner = WakeSleep(posterior("prefix_mlp", 1, 3))
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 6).view(-1, *IMAGE)
    p = brute_force_log_joint(model, images).detach().exp()
    torch.testing.assert_close(p.sum(), torch.ones(()).double())
    phi, expected = list(learner.parameters()), 0.0
    for image, row in zip(images.split(1), p, strict=True):
        for z, weight in zip(all_codes(model.cardinalities).split(1), row, strict=True):
            monkeypatch.setattr(model, "sample", lambda *_, dream=(image, z): dream, raising=False)
            sleep = next(learner.losses(model, Batch(image)))
            assert sleep.term == "sleep"
            expected = expected + weight * gradient(sleep.value, phi)
    wanted = gradient(-(p * log_q_table(learner.posterior(model, images))).sum(), phi)
    torch.testing.assert_close(expected, wanted)


def test_its_parts_are_those_of_the_papers():
    asleep, reweighted = WakeSleep(posterior("factorised")), WakeSleep(posterior("factorised"), WakePhi())
    assert isinstance(asleep.m_step, ImportanceWeighted)
    terms = [[loss.term for loss in learner.losses(tiny_model(), Batch(X))] for learner in (asleep.double(), reweighted.double())]
    assert terms == [["sleep", "M-step"], ["E-step", "sleep", "M-step"]]
