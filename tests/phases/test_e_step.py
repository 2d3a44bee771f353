"""E-step objectives as modules: each is its equation, with its own log Z, and says what it needs."""

import pytest
import torch

from latentcomp import objectives
from latentcomp.phases.e_step import AmortisedLogZ, LeaveOneOut, LogVariance, ScalarLogZ, TrajectoryBalance, WakePhi
from latentcomp.posteriors.exact import Exact
from tests.scenarios import FEATURES, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(3)


def samples() -> tuple:
    """q, and for four samples of each image log q, log p(x, z) by brute force, and the log-density of an exploring policy."""
    model, q = tiny_model(), posterior("prefix_mlp")(tiny_model(), X)
    torch.manual_seed(0)
    z = q.sample((4,))
    log_joint = brute_force_log_joint(model, X).gather(1, (z @ torch.tensor([3, 1])).T).T
    return q, q.log_prob(z), log_joint.detach(), q.explore(0.3).log_prob(z).detach()


def test_each_module_is_its_equation():
    q, log_q, log_joint, log_b = samples()
    modules = {
        LogVariance(): objectives.log_variance_loss(log_q, log_joint),
        LeaveOneOut(): objectives.leave_one_out_loss(log_q, log_joint, log_b),
        WakePhi(): objectives.wake_phi_loss(log_q, log_joint, log_b),
        TrajectoryBalance(ScalarLogZ(-3.0)).double(): objectives.trajectory_balance_loss(log_q, log_joint, torch.tensor(-3.0).double()),
    }
    for module, wanted in modules.items():
        torch.testing.assert_close(module(q, log_q, log_joint, log_b), wanted)


def test_log_z_of_x_reads_the_features_of_each_image():
    torch.manual_seed(0)
    q, log_q, log_joint, log_b = samples()
    log_z = AmortisedLogZ(FEATURES, 7, initial=-4.0).double()
    first, last = log_z.network[0], log_z.network[2]
    for b, row in enumerate(log_z(q)):
        hidden = (first.weight @ q.context[b] + first.bias).clamp_min(0)
        torch.testing.assert_close(row, (last.weight @ hidden + last.bias).squeeze() - 4)
    assert log_z(q).unique().numel() == len(X)
    loss = TrajectoryBalance(log_z)(q, log_q, log_joint, log_b)
    by_loop = [(log_z(q)[b] + log_q[s, b] - log_joint[s, b]).detach().square() for s in range(4) for b in range(3)]
    torch.testing.assert_close(loss.detach(), torch.stack(by_loop).mean())
    assert all(p.grad is None for p in log_z.parameters())
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in log_z.parameters())


def test_log_z_learns_log_px_where_q_is_exact():
    """Gradient descent on trajectory balance alone, q frozen at p(z|x)."""
    log_z = ScalarLogZ(0.0).double()
    log_joint = brute_force_log_joint(tiny_model(), X[:1]).detach().T
    log_px, q = log_joint.logsumexp(0), Exact()(tiny_model(), X[:1])
    objective = TrajectoryBalance(log_z)
    for _ in range(100):
        objective.zero_grad()
        objective(q, log_joint - log_px, log_joint, log_joint).backward()
        log_z.log_z.data -= 0.2 * log_z.log_z.grad
    assert float(log_z.log_z.detach()) == pytest.approx(float(log_px), abs=1e-9)


def test_what_each_objective_needs():
    log_z = {"scalar": TrajectoryBalance(ScalarLogZ()), "faithful": TrajectoryBalance(ScalarLogZ(), faithful=True), "of_x": TrajectoryBalance(AmortisedLogZ(5))}
    assert {name: tb.off_policy for name, tb in log_z.items()} == {"scalar": False, "faithful": True, "of_x": True}
    assert [o.least_samples for o in (LogVariance(), LeaveOneOut(), WakePhi(), *log_z.values())] == [2, 2, 2, 1, 1, 1]
    assert [o.comparable for o in (LogVariance(), LeaveOneOut(), WakePhi(), *log_z.values())] == [True, False, False, True, True, True]
    assert [o.weighs for o in (LogVariance(), LeaveOneOut(), WakePhi(), *log_z.values())] == [False, True, True, False, False, False]


def test_a_scalar_log_z_is_the_same_number_for_every_image():
    assert float(ScalarLogZ(-2.5)(samples()[0]).detach()) == -2.5
