"""M-steps over all tuples of codes: which gradient in theta they have on average, and how far from that of log p(x)."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.enumeration import all_codes
from latentcomp.noise import Noise
from latentcomp.phases.m_step import Greedy, ImportanceWeighted, Marginalised, MStep, Sampled
from latentcomp.phases.resampled import Resampled
from latentcomp.posteriors.exact import Exact
from tests.learners.tuples import NO_NOISE, elbo, expectation, gradient, tuples
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)


@pytest.fixture
def setting():
    """A model with a learned prior, a posterior that is not exact, and theta."""
    model = tiny_model(codes=2, learned_prior=True)
    return model, posterior("prefix_mlp", codes=2), list(model.parameters())


def told(q: CodeDistribution, z: torch.Tensor) -> CodeDistribution:
    """q, which will draw these codes next."""
    q.sample = lambda *_: z
    q.sample_and_log_prob = lambda *_: (z, q.log_prob(z))
    return q


def expected(m_step: MStep, model, posterior, samples: int, theta) -> torch.Tensor:
    """The M-step's expected gradient, over all tuples of codes of q."""

    def estimate(image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return gradient(m_step(model, told(posterior(model, image), z), Batch(image), NO_NOISE), theta)

    return expectation(X, lambda image: posterior(model, image), samples, estimate)


def bias(given: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((given - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("samples", [1, 2])
def test_sampled_is_unbiased_for_the_elbo(setting, samples):
    model, q, theta = setting
    torch.testing.assert_close(expected(Sampled(samples), model, q, samples, theta), gradient(-elbo(model, q, X), theta))


def test_marginalised_is_the_elbo_s_gradient_without_noise(setting):
    model, q, theta = setting
    loss = Marginalised()(model, q(model, X), Batch(X), NO_NOISE)
    torch.testing.assert_close(gradient(loss, theta), gradient(-elbo(model, q, X), theta))
    torch.testing.assert_close(loss, -(q(model, X).table().exp() * brute_force_log_joint(model, X)).sum(-1).mean())


def test_greedy_learns_from_the_mode_alone(setting):
    model, q, theta = setting
    best = [int(table.argmax()) for table in q(model, X).table()]
    codes = all_codes(model.cardinalities)
    assert codes[best].tolist() == q(model, X).mode.tolist()  # here the greedy codes are the best ones
    wanted = -sum(brute_force_log_joint(model, X)[b, m] for b, m in enumerate(best)) / len(X)
    loss = Greedy()(model, q(model, X), Batch(X), NO_NOISE)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(gradient(loss, theta), gradient(wanted, theta))
    distance = bias(gradient(loss, theta), gradient(-elbo(model, q, X), theta))
    print(f"greedy M-step: bias against the ELBO's gradient {distance:.3f} of its norm")
    assert distance > 0.1


def test_importance_weights_follow_the_bound_of_s_samples_towards_log_px(setting):
    """Its expected gradient is that of E[log mean_s w_s], q fixed: with S = 1 the ELBO's, and the nearer to -grad log p(x) the larger S."""
    model, q, theta = setting
    exact = gradient(-brute_force_log_joint(model, X).logsumexp(-1).mean(), theta)
    biases = []
    for samples in (1, 2, 3):
        given, bound = expected(ImportanceWeighted(samples), model, q, samples, theta), 0.0
        for b, image in enumerate(X.split(1)):
            log_w = brute_force_log_joint(model, X)[b] - q(model, image).table()[0]
            for z, weight in tuples(q(model, image), samples):
                bound = bound + weight * log_w[z.squeeze(1) @ torch.tensor([2, 1])].exp().mean().log() / len(X)
        torch.testing.assert_close(given, gradient(-bound, theta))
        biases.append(bias(given, exact))
    print(f"importance-weighted M-step: bias against the gradient of -log p(x) over its norm, S = 1, 2, 3: {[f'{b:.3f}' for b in biases]}")
    assert biases[0] == pytest.approx(bias(gradient(-elbo(model, q, X), theta), exact))
    assert biases == sorted(biases, reverse=True)
    assert biases[-1] < 0.5 * biases[0]


class Said(Noise):
    """The uniform number it was told, whatever it is asked for."""

    def __init__(self, u: float) -> None:
        super().__init__(0, 0, torch.arange(1))
        self.u = u

    def uniform(self, sample_shape, shape, dtype=torch.float64):
        return torch.full((1,), self.u, dtype=dtype)


def test_one_resampled_code_has_on_average_the_weighted_gradient(setting):
    """For every pair of codes: below its weight the first is drawn, above it the second, and the two gradients average to the weighted one."""
    model, q, theta = setting
    image = X[:1]
    log_w = (brute_force_log_joint(model, X)[0] - q(model, image).table()[0]).detach()
    for z, _ in tuples(q(model, image), 2):
        w = float(log_w[z.squeeze(1) @ torch.tensor([2, 1])].softmax(0)[0])
        first, second = (
            gradient(Resampled(2)(model, told(q(model, image), z), Batch(image), Said(u)), theta) for u in (w - min(w, 1e-6) / 2, w + min(1 - w, 1e-6) / 2)
        )
        weighted = gradient(ImportanceWeighted(2)(model, told(q(model, image), z), Batch(image), NO_NOISE), theta)
        torch.testing.assert_close(w * first + (1 - w) * second, weighted)
        for code, drawn in ((z[0], first), (z[1], second)):
            torch.testing.assert_close(drawn, gradient(-model.log_joint(image, code).mean(), theta))


@pytest.mark.parametrize("m_step", [Sampled(2), ImportanceWeighted(2), Marginalised(), Greedy()], ids=lambda m: type(m).__name__)
def test_with_the_exact_posterior_every_tuple_agrees_where_it_should(setting, m_step):
    """Sampled, weighted and marginalised M-steps at q = p(z|x) have the expected gradient of -log p(x); the greedy one does not."""
    model, _, theta = setting
    exact = gradient(-brute_force_log_joint(model, X).logsumexp(-1).mean(), theta)
    given = expected(m_step, model, Exact(), getattr(m_step, "samples", 1), theta)
    assert torch.allclose(given, exact) == (not isinstance(m_step, Greedy))


@pytest.mark.parametrize("m_step", [Sampled(2), ImportanceWeighted(3), Resampled(3), Marginalised(), Greedy()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("kind", ["factorised", "softmax_distance"])
def test_no_gradient_reaches_phi(m_step, kind):
    model, q = tiny_model(), posterior(kind)
    loss = m_step(model, q(model, X), Batch(X), Noise(0, 0, torch.arange(2)))
    assert gradient(loss, list(q.parameters())).abs().max() == 0
    assert gradient(loss, list(model.parameters())).norm() > 0
