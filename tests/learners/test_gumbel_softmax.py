"""Gumbel-softmax on one site of two codes, where the noise is one logistic number and its expectation an integral; and by sampling on more."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.noise import Noise
from latentcomp.phases.anneal import Constant, Exponential
from latentcomp.phases.behaviour import Exploring
from latentcomp.phases.schedule import EachBatch
from tests.learners.tuples import elbo, gradient
from tests.scenarios import posterior, tiny_images, tiny_model

NODES = 4000
IMAGE = tiny_images(1)


class Quadrature(Noise):
    """Gumbel noise for ``NODES`` copies of one datum whose differences are the quantiles of a logistic: the batch mean is an integral."""

    def __init__(self) -> None:
        super().__init__(0, 0, torch.arange(NODES))

    def gumbel(self, sample_shape, event_shape, dtype) -> torch.Tensor:
        """``(NODES, 1, 2)``: a logistic number for the first code, zero for the second."""
        assert (sample_shape, tuple(event_shape)) == ((), (1, 2))
        return torch.stack([torch.logit((torch.arange(NODES, dtype=dtype) + 0.5) / NODES), torch.zeros(NODES, dtype=dtype)], -1).unsqueeze(1)


def integral(learner: GumbelSoftmax, model) -> torch.Tensor:
    """The expectation of the learner's loss over its noise."""
    learner.noise = lambda _: Quadrature()
    (loss,) = learner.losses(model, Batch(IMAGE.expand(NODES, -1, -1, -1)))
    return loss.value


def relaxed(tau: float, hard: bool = False, kind: str = "factorised") -> GumbelSoftmax:
    return GumbelSoftmax(posterior(kind, 1, 2), Relaxation(Constant(tau), hard))


def by_hand(model, q, tau: float) -> torch.Tensor:
    """-E[log p(x|e(y))] + KL(q || p(z)), y_1 = sigmoid((l_1 - l_2 + L) / tau), sharing no code with the learner."""
    logits = q.head(q.trunk(IMAGE))[0, 0]
    u = (torch.arange(NODES).double() + 0.5) / NODES
    y = torch.sigmoid((logits[0] - logits[1] + u.log() - (1 - u).log()) / tau)
    e = y.unsqueeze(-1) * model.codebook.weight[0] + (1 - y).unsqueeze(-1) * model.codebook.weight[1]
    on = model.decoder(e.unsqueeze(1)).sigmoid()
    log_px = (IMAGE * on.log() + (1 - IMAGE) * (1 - on).log()).sum((-3, -2, -1))
    p = logits.softmax(-1)
    return -log_px.mean() + (p * (p.log() + torch.log(torch.tensor(2.0)))).sum()


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_the_soft_loss_and_its_gradient_are_the_integral(tau):
    model, learner = tiny_model(1, 2), relaxed(tau)
    both = [*model.parameters(), *learner.parameters()]
    given, wanted = integral(learner, model), by_hand(model, learner.posterior, tau)
    torch.testing.assert_close(given, wanted)
    torch.testing.assert_close(gradient(given, both), gradient(wanted, both))


@pytest.mark.parametrize("kind", ["factorised", "softmax_distance"])
def test_the_bias_of_the_soft_gradient_falls_with_the_temperature(kind):
    model, biases = tiny_model(1, 2), []
    for tau in (2.0, 1.0, 0.3, 0.1):
        learner = relaxed(tau, kind=kind)
        both = [*model.parameters(), *learner.parameters()]
        wanted = gradient(-elbo(model, learner.posterior, IMAGE), both)
        biases.append(float((gradient(integral(learner, model), both) - wanted).norm() / wanted.norm()))
    print(f"Gumbel-softmax ({kind}): bias over the norm of the ELBO's gradient for tau = 2, 1, 0.3, 0.1: {[f'{b:.3f}' for b in biases]}")
    assert biases == sorted(biases, reverse=True)
    assert biases[0] > 3 * biases[-1]


def test_the_hard_form_is_unbiased_in_value_and_in_theta_but_not_in_phi():
    model, learner = tiny_model(1, 2), relaxed(0.5, hard=True)
    given, wanted = integral(learner, model), -elbo(model, learner.posterior, IMAGE)
    torch.testing.assert_close(given, wanted, atol=5 / NODES, rtol=0)  # one code wins up to the node where the other begins
    theta, phi = list(model.parameters()), list(learner.parameters())
    torch.testing.assert_close(gradient(given, theta), gradient(wanted, theta), atol=5 / NODES, rtol=0)
    bias = (gradient(given, phi) - gradient(wanted, phi)).norm() / gradient(wanted, phi).norm()
    print(f"straight-through Gumbel-softmax, tau = 0.5: bias in phi {bias:.3f} of the norm of the ELBO's gradient, in theta none")
    assert bias > 0.01


@pytest.mark.parametrize("kind", ["factorised", "softmax_distance"])
def test_by_sampling_the_hard_value_is_the_negative_elbo_on_several_sites(kind):
    """Error rate: five standard errors, 6e-7 for each of two."""
    model, learner = tiny_model(), GumbelSoftmax(posterior(kind), Relaxation(Constant(0.7), hard=True))
    x = IMAGE.expand(4000, -1, -1, -1)
    with torch.no_grad():
        values = torch.stack([next(learner.losses(model, Batch(part, index=i * 100 + torch.arange(100)))).value for i, part in enumerate(x.split(100))])
        error = values.std() / len(values) ** 0.5
        assert (values.mean() + elbo(model, learner.posterior, IMAGE)).abs() < 5 * error < 0.2


def test_exploration_flattens_what_is_relaxed():
    """The policy's KL to q is not in the loss: only the relaxed codes come from it."""
    model, q = tiny_model(), posterior("factorised")
    learner = GumbelSoftmax(q, Relaxation(Constant(0.5)), Exploring(1, 0.4, 2.0))
    (loss,) = learner.losses(model, Batch(IMAGE))
    policy = q(model, IMAGE).explore(0.4, 2.0)
    y = policy.relaxed(0.5, Noise(0, 0, torch.arange(1)))
    wanted = -model.decode(y @ model.codebook.weight).log_prob(IMAGE) + q(model, IMAGE).kl(model.prior())
    torch.testing.assert_close(loss.value, wanted.squeeze())


def test_the_temperature_follows_the_step():
    model, learner = tiny_model(), GumbelSoftmax(posterior("factorised"), Relaxation(Exponential(2.0, 0.1, 10)))
    learner.step = 5
    y = posterior("factorised")(model, IMAGE).relaxed(0.2**0.5, learner.noise(Batch(IMAGE)))
    (loss,) = learner.losses(model, Batch(IMAGE))
    torch.testing.assert_close(loss.metrics["reconstruction"], -model.decode(y @ model.codebook.weight).log_prob(IMAGE).mean())


def test_with_another_schedule_the_m_step_is_that_of_the_discrete_model():
    learner = GumbelSoftmax(posterior("factorised"), schedule=EachBatch())
    assert [loss.term for loss in learner.losses(tiny_model(), Batch(IMAGE))] == ["E-step", "M-step"]


def test_dependent_sites_are_refused():
    remedy = "Use a Factorised or SoftmaxDistance posterior and a Uniform prior, and fit an autoregressive prior afterwards"
    with pytest.raises(TypeError, match=rf"got q=AutoregressiveCodes, p\(z\)=FactorisedCodes\. {remedy}"):
        next(GumbelSoftmax(posterior("prefix_mlp")).losses(tiny_model(), Batch(IMAGE)))
    with pytest.raises(TypeError, match=rf"got q=FactorisedCodes, p\(z\)=AutoregressiveCodes\. {remedy}"):
        next(GumbelSoftmax(posterior("factorised")).losses(tiny_model(learned_prior=True), Batch(IMAGE)))
