"""Behaviour policies draw what they say, and give the density of what they drew."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Exploring, FromPosterior, OnPolicy
from latentcomp.posteriors.exact import Exact
from tests.frequencies import assert_frequencies, positions
from tests.learners.tuples import gradient, kl
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model

S = 3000
X = tiny_images(2)
CASES = {"on_policy": lambda: OnPolicy(S), "exploring": lambda: Exploring(S, 0.3, 2.0), "from_posterior": lambda: FromPosterior(Exact(), S)}


def policies(model, q) -> dict[str, torch.Tensor]:
    """The probabilities of all codes, by hand."""
    log_q = q(model, X).table()
    sites = [(q(model, X).logits[:, site] / 2.0).softmax(-1) * 0.7 + 0.1 for site in range(2)]  # 0.7 of the flattened site, 0.3 / K of the uniform one
    exploring = (sites[0].unsqueeze(-1) * sites[1].unsqueeze(-2)).flatten(1)
    return {"on_policy": log_q.exp(), "exploring": exploring, "from_posterior": brute_force_log_joint(model, X).softmax(-1)}


@pytest.mark.parametrize("case", CASES)
def test_codes_follow_the_policy_that_comes_with_them(case):
    model, q = tiny_model(), posterior("factorised")
    z, b = CASES[case]()(model, q(model, X), Batch(X), Noise(1, 0, torch.arange(2)))
    assert z.shape == (S, 2, 2)
    wanted = policies(model, q)[case]
    torch.testing.assert_close(b.table().exp(), wanted)
    for codes, p in zip(positions(z, model.cardinalities).T, wanted, strict=True):
        assert_frequencies(codes, p)


def test_who_is_on_policy():
    flags = [OnPolicy().on_policy, Exploring().on_policy, Exploring(4, 0.0, 1.0).on_policy, Exploring(4, 0.0, 2.0).on_policy]
    assert flags == [True, False, True, False]
    assert not FromPosterior(Exact()).on_policy


def test_at_least_one_sample():
    with pytest.raises(ValueError, match="at least one sample for each datum, got samples=0"):
        OnPolicy(0)


def test_exploration_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"epsilon is a probability.*\[0, 1\]; got 1.5"):
        Exploring(4, 1.5)
    with pytest.raises(ValueError, match="temperature must be positive.*got 0"):
        Exploring(4, 0.1, 0.0)


def test_reinforce_weighs_a_teacher_s_codes_by_its_density():
    """Many samples of the exact posterior, weighed by q / p: the gradient of KL(q || p(z|x)) within sampling noise, and far from the unweighted one."""
    model, q = tiny_model(), posterior("factorised")
    phi = list(q.parameters())
    teacher = FromPosterior(Exact(), 20000)
    weighed, unweighed = (next(learner.losses(model, Batch(X))).value for learner in (Reinforce(q, teacher), GFlowNetEM(q, behaviour=teacher)))
    wanted = gradient(kl(model, q, X), phi)
    assert (gradient(weighed, phi) - wanted).norm() < 0.15 * wanted.norm()
    assert (gradient(unweighed, phi) / 2 - wanted).norm() > 0.3 * wanted.norm()
