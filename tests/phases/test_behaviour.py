"""Behaviour policies draw what they say, and give the density of what they drew."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.moves import Gibbs, LocalSearch
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.replay import Memory, Replay
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


@pytest.mark.parametrize("kernel", [Gibbs(), LocalSearch()])
def test_moved_codes_are_those_of_the_behaviour_after_the_kernel(kernel):
    """On the same stream: first the behaviour draws, then the kernel."""
    model, q = tiny_model(), posterior("prefix_mlp")(tiny_model(), X)
    z, b = Moved(OnPolicy(50), kernel, 2)(model, q, Batch(X), Noise(1, 0, torch.arange(2)))
    noise = Noise(1, 0, torch.arange(2))
    by_hand = q.sample((50,), noise)
    for _ in range(2):
        by_hand, _ = kernel.step(model, q, Batch(X), by_hand, noise, None)
    assert torch.equal(z, by_hand)
    assert b is None
    assert not Moved(OnPolicy(), kernel).on_policy


def test_gibbs_moves_bring_samples_of_a_poor_q_to_the_posterior():
    """Error rate: ``frequencies.LEVEL`` = 1e-6 for each image; without the moves the test would fail."""
    model, q = tiny_model(), posterior("factorised")(tiny_model(), X)
    exact = brute_force_log_joint(model, X).softmax(-1)
    z, _ = Moved(OnPolicy(S), Gibbs(), 40)(model, q, Batch(X), Noise(1, 0, torch.arange(2)))
    for codes, p in zip(positions(z, model.cardinalities).T, exact, strict=True):
        assert_frequencies(codes, p)
    with pytest.raises(AssertionError):
        assert_frequencies(positions(q.sample((S,), Noise(1, 0, torch.arange(2))), model.cardinalities)[:, 0], exact[0])


def test_a_mixture_has_the_codes_of_each_and_tells_each_what_all_found():
    model, q, batch = tiny_model(), posterior("factorised")(tiny_model(), X), Batch(X)
    parts = [Exploring(3, 0.5), Replay(Memory(2, 2, 5), 2), Moved(Replay(Memory(2, 2, 5), 1), Gibbs())]
    mixed, noise = Mixed(parts), Noise(1, 0, torch.arange(2))
    z, b = mixed(model, q, batch, Noise(1, 0, torch.arange(2)))
    assert b is None
    assert mixed.samples == len(z) == 6
    assert torch.equal(z, torch.cat([part(model, q, batch, noise)[0] for part in parts]))
    log_joint = model.log_joint(X, z)
    rows = mixed.statistics(batch, z, log_joint)
    assert rows["1.codes"][:, :2].equal(z[3:5].movedim(0, 1)), "its own codes come first"
    assert rows["2.codes"][:, :1].equal(z[5:].movedim(0, 1))
    mixed.update(rows)
    best = [max(log_joint[:, b]) for b in range(2)]
    for memory in (parts[1].memory, parts[2].behaviour.memory):
        torch.testing.assert_close(memory.scores[:, 0].double(), torch.stack(best))
    mixed.update({})  # a step without an E-step


def test_a_mixture_of_q_with_q_is_on_policy_and_an_empty_one_is_refused():
    assert Mixed([OnPolicy(2), OnPolicy(1)]).on_policy
    assert not Mixed([OnPolicy(2), Exploring(1)]).on_policy
    with pytest.raises(ValueError, match="at least one behaviour, and got none"):
        Mixed([])


@pytest.mark.parametrize(
    "behaviour", [Moved(OnPolicy(3), Gibbs()), Mixed([OnPolicy(2), Exploring(2)]), Replay(Memory(2, 2), 2)], ids=lambda b: type(b).__name__
)
def test_without_a_density_objectives_that_weigh_refuse(behaviour):
    q = posterior("prefix_mlp")
    with pytest.raises(ValueError, match=f"LeaveOneOut weighs samples by the density.*{type(behaviour).__name__} has none"):
        next(Reinforce(q, behaviour).losses(tiny_model(), Batch(X)))
    assert next(GFlowNetEM(q, LogVariance(), behaviour).losses(tiny_model(), Batch(X))).value.isfinite()
