"""EM: with the exact posterior, its gradient is that of the log-likelihood (Fisher's identity); hard EM's is that of the best code's joint."""

import torch

from latentcomp.batch import Batch
from latentcomp.learners.em import EM
from latentcomp.phases.m_step import Greedy, Sampled
from latentcomp.posteriors.exact import Exact, Mode
from tests.learners.tuples import NO_NOISE, expectation, gradient
from tests.scenarios import brute_force_log_joint, tiny_images, tiny_model

X = tiny_images(4)


def test_soft_em_descends_the_negative_log_likelihood():
    model = tiny_model(learned_prior=True)
    theta = list(model.parameters())
    (loss,) = EM().losses(model, Batch(X))
    log_joint = brute_force_log_joint(model, X)
    torch.testing.assert_close(gradient(loss.value, theta), gradient(-log_joint.logsumexp(-1).mean(), theta))
    p = log_joint.softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(loss.value, -log_joint.logsumexp(-1).mean() + entropy)


def test_hard_em_descends_the_best_code_s_joint():
    model = tiny_model(learned_prior=True)
    theta = list(model.parameters())
    (loss,) = EM(Mode(Exact()), Greedy()).losses(model, Batch(X))
    log_joint = brute_force_log_joint(model, X)
    hard, soft = -log_joint.max(-1).values.mean(), -log_joint.logsumexp(-1).mean()
    torch.testing.assert_close(loss.value, hard)
    torch.testing.assert_close(gradient(loss.value, theta), gradient(hard, theta))
    bias = (gradient(hard, theta) - gradient(soft, theta)).norm() / gradient(soft, theta).norm()
    print(f"hard EM: bias against the gradient of -log p(x) {bias:.3f} of its norm")
    assert bias > 0.1


def test_monte_carlo_em_is_unbiased():
    model = tiny_model(codes=2, learned_prior=True)
    theta, learner = list(model.parameters()), EM(Exact(), Sampled(2))

    def estimate(image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        q = learner.posterior(model, image)
        q.sample = lambda *_: z
        return gradient(learner.m_step(model, q, Batch(image), NO_NOISE), theta)

    expected = expectation(X, lambda image: learner.posterior(model, image), 2, estimate)
    torch.testing.assert_close(expected, gradient(-brute_force_log_joint(model, X).logsumexp(-1).mean(), theta))
