"""Generalised EM: who learns in which update, seen from outside, through the loop and one Adam over all parameters."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import LeaveOneOut, LogVariance
from latentcomp.phases.m_step import Marginalised, Sampled
from latentcomp.phases.schedule import BOTH, E, EachBatch, M, OnlyE, Period, Schedule, Together
from latentcomp.phases.sleep import Sleep
from latentcomp.train import fit
from tests.learners.contract import LEARNERS, X, adam, assert_same, batches, made
from tests.learners.tuples import Given, elbo, expected_gradient, gradient
from tests.scenarios import posterior, tiny_model

ALTERNATING = [name for name in LEARNERS if isinstance(made(name)[1], Alternating)]


def side(module: torch.nn.Module, optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """Copies of parameters, buffers, and Adam's moments and counts."""
    kept = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    for name, p in module.named_parameters():
        kept |= {f"{name}.{moment}": value.clone() for moment, value in optimizer.state[p].items()}
    return kept


@pytest.mark.parametrize("name", ALTERNATING)
def test_e_phases_leave_theta_and_m_phases_leave_phi_bit_identical(name):
    """Parameters, buffers and Adam's moments; a sleep phase belongs to its E-step."""
    model, learner = made(name)
    learner.schedule = Period(e_steps=2, m_steps=2)
    if name.startswith("gflownet"):
        learner.sleep = Sleep()
    optimizer = adam(model, learner)
    theta, phi = side(model, optimizer), side(learner, optimizer)
    steps = []
    for step, _ in enumerate(fit(model, learner, batches(6), optimizer)):
        theta_after, phi_after = side(model, optimizer), side(learner, optimizer)
        frozen, moving = ((theta, theta_after), (phi, phi_after)) if step % 4 < 2 else ((phi, phi_after), (theta, theta_after))
        assert_same(*frozen)
        same = moving[0].keys() == moving[1].keys() and all(torch.equal(moving[0][key], moving[1][key]) for key in moving[0])
        steps.append(not same)
        theta, phi = theta_after, phi_after
    learns_awake = not name.startswith("em")
    assert steps == [learns_awake, learns_awake, True, True, learns_awake, learns_awake]


class Fixed(Schedule):
    """The same updates at every step."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def updates(self, step: int) -> tuple[str, ...]:
        """The names."""
        return self.names


def test_updates_come_in_the_schedule_s_order_with_sleep_behind_each_e_step():
    for names, terms in [((E, M), "E-step sleep M-step"), ((M, E), "M-step E-step sleep"), ((BOTH,), "E+M-step sleep"), ((E, E), "E-step sleep E-step sleep")]:
        learner = GFlowNetEM(posterior("factorised"), schedule=Fixed(*names), sleep=Sleep())
        assert [loss.term for loss in learner.losses(tiny_model(), Batch(X))] == terms.split()


@pytest.mark.parametrize("kind", ["prefix_mlp", "factorised"])
def test_together_is_one_update_with_the_gradients_of_both(kind):
    """On the same draws: the M-step's first, then the E-step's."""
    model, losses = tiny_model(learned_prior=True), []
    for schedule in (Together(), Fixed(M, E)):
        learner = Alternating(posterior(kind), LogVariance(), OnPolicy(3), schedule, Sampled(2))
        losses.append(list(learner.losses(model, Batch(X))))
    (both,), (m, e) = losses
    torch.testing.assert_close(both.value, m.value + e.value)
    everything = list({id(p): p for loss in (*losses[0], m, e) for p in loss.learns}.values())
    theta, phi = list(model.parameters()), list(learner.parameters())
    torch.testing.assert_close(gradient(losses[1][0].value, theta), gradient(both.value, theta))
    torch.testing.assert_close(gradient(losses[1][1].value, phi), gradient(e.value, phi))
    assert {id(p) for p in both.learns} >= {id(p) for p in theta}
    assert both.metrics.keys() == m.metrics.keys() | e.metrics.keys()
    assert both.statistics.keys() == e.statistics.keys() == {"e_loss"}
    assert len(everything) == len(theta) + 2 * len(phi)  # a posterior of its own for each of the two learners


@pytest.mark.parametrize("kind", ["prefix_mlp", "softmax_distance"])
def test_together_descends_the_negative_elbo(kind):
    """Also in a codebook that the posterior borrows: it hears both losses."""
    model = tiny_model(learned_prior=True)
    learner = Alternating(posterior(kind), LeaveOneOut(), Given(2), Together(), Marginalised())
    everything = [*model.parameters(), *learner.parameters()]
    torch.testing.assert_close(expected_gradient(learner, model, X[:1], everything), gradient(-elbo(model, learner.posterior, X[:1]), everything))


def test_x_is_encoded_once_in_an_e_step():
    model, q = tiny_model(), posterior("prefix_mlp")
    calls = []
    q.trunk.register_forward_hook(lambda *_: calls.append(1))
    next(GFlowNetEM(q, behaviour=OnPolicy(5)).losses(model, Batch(X)))
    assert len(calls) == 1


def test_only_e_never_touches_theta():
    learner = GFlowNetEM(posterior("factorised"), schedule=OnlyE())
    assert [loss.term for loss in learner.losses(tiny_model(), Batch(X))] == ["E-step"]


def test_defaults_are_on_policy_each_batch_sampled_and_awake():
    learner = Alternating(posterior("factorised"), LeaveOneOut())
    assert isinstance(learner.behaviour, OnPolicy)
    assert isinstance(learner.schedule, EachBatch)
    assert type(learner.m_step) is Sampled
    assert learner.sleep is None
