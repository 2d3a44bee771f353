"""GFlowNet-EM: on-policy twice the gradient of the KL, off-policy the same optimum, and why one log Z for all x cannot have it."""

import pytest
import torch
from torch import nn

from latentcomp.batch import Batch
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.moves import Gibbs, GreedyLocalSearch, LocalSearch
from latentcomp.phases.behaviour import Exploring, Mixed, Moved, OnPolicy
from latentcomp.phases.chains import Chains
from latentcomp.phases.e_step import AmortisedLogZ, LogVariance, ScalarLogZ, TrajectoryBalance
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import OnlyE, Threshold
from latentcomp.train import fit
from tests.learners.tuples import Given, TablePosterior, expected_gradient, gradient, kl, log_q_table, log_ratios, tuples
from tests.scenarios import FEATURES, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)
KINDS = pytest.mark.parametrize("kind", ["factorised", "softmax_distance", "prefix_mlp", "transformer"])


def scalar(**settings) -> TrajectoryBalance:
    return TrajectoryBalance(ScalarLogZ(-1.5), **settings).double()


def amortised(features: int = FEATURES) -> TrajectoryBalance:
    torch.manual_seed(4)
    return TrajectoryBalance(AmortisedLogZ(features, 6, initial=-1.0)).double()


@KINDS
def test_log_variance_on_policy_is_twice_the_kl(kind):
    model, learner, x = tiny_model(), GFlowNetEM(posterior(kind), LogVariance(), Given(2)), X[:1]
    phi = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, x, phi), 2 * gradient(kl(model, learner.posterior, x), phi))


@KINDS
def test_trajectory_balance_with_a_scalar_log_z_on_policy_is_twice_the_kl(kind):
    """However wrong the scalar, and however different log p(x): on-policy it is a baseline."""
    model, learner = tiny_model(), GFlowNetEM(posterior(kind), scalar(), Given(1))
    phi = list(learner.posterior.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, phi), 2 * gradient(kl(model, learner.posterior, X), phi))


@pytest.mark.parametrize(("kind", "features"), [("factorised", FEATURES), ("softmax_distance", 4), ("prefix_mlp", FEATURES), ("transformer", FEATURES)])
def test_trajectory_balance_with_log_z_of_x_on_policy_is_twice_the_kl(kind, features):
    """In the policy; the shared trunk and the head besides regress log Z(x) on the residual."""
    model, learner = tiny_model(), GFlowNetEM(posterior(kind), amortised(features), Given(1))
    log_q, residual = log_ratios(model, learner.posterior, X)
    log_z = learner.objective.log_z(learner.posterior(model, X))
    regression = (log_q.exp().detach() * (log_z.unsqueeze(-1) + residual.detach()).square()).sum(-1).mean()
    oracle = 2 * kl(model, learner.posterior, X) + regression
    everything = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, everything), gradient(oracle, everything))
    if kind in ("prefix_mlp", "transformer"):
        policy = list(learner.posterior.policy.parameters())
        torch.testing.assert_close(expected_gradient(learner, model, X, policy), 2 * gradient(kl(model, learner.posterior, X), policy))


@KINDS
def test_log_variance_is_exactly_twice_leave_one_out_reinforce(kind):
    """Not in expectation only: on the same samples."""
    model, q = tiny_model(), posterior(kind)
    given, phi = Given(4), list(q.parameters())
    given.codes = q(model, X).sample((4,))
    gflownet, reinforce = (next(learner.losses(model, Batch(X))).value for learner in (GFlowNetEM(q, behaviour=given), Reinforce(q, given)))
    torch.testing.assert_close(gradient(gflownet, phi), 2 * gradient(reinforce, phi), atol=1e-12, rtol=1e-10)
    assert gradient(reinforce, phi).norm() > 0.01


@pytest.mark.parametrize("objective", ["log_variance", "trajectory_balance"])
def test_off_policy_the_gradient_is_that_of_the_documented_loss(objective):
    """Var_b[l] with the unbiased variance of two samples, or E_b[(log Z(x) + l)^2]; b is held fixed."""
    model, samples = tiny_model(), {"log_variance": 2, "trajectory_balance": 1}[objective]
    learner = GFlowNetEM(posterior("prefix_mlp"), LogVariance() if samples == 2 else amortised(), Given(samples, 0.4, 2.0))
    q = learner.posterior(model, X)
    b, residual = learner.behaviour.policy(q).table().exp(), log_ratios(model, learner.posterior, X)[1]
    if objective == "log_variance":
        centred = residual - (b * residual).sum(-1, keepdim=True)
    else:
        centred = residual + learner.objective.log_z(q).unsqueeze(-1)
    loss = (b * centred.square()).sum(-1).mean()
    phi = list(learner.parameters())
    torch.testing.assert_close(expected_gradient(learner, model, X, phi), gradient(loss, phi))
    assert (gradient(loss, phi) - 2 * gradient(kl(model, learner.posterior, X), phi)).norm() > 0.03  # which off-policy is not the KL's


class LogZTable(AmortisedLogZ):
    """A free log Z for each of a few images."""

    def __init__(self, owner: TablePosterior, log_z: torch.Tensor) -> None:
        super().__init__(1, 1)
        del self.network
        self.owner, self.table = [owner], nn.Parameter(log_z)

    def forward(self, q) -> torch.Tensor:
        """The entries that stand at the rows of q, recognised by their logits."""
        row = (self.owner[0].logits.unsqueeze(0) == q.logits.unsqueeze(1)).all(-1).long().argmax(-1)
        return self.table[row]


def exact_table(model) -> tuple[TablePosterior, torch.Tensor]:
    """A posterior of free logits that is the exact one, and log p(x)."""
    log_joint = brute_force_log_joint(model, X).detach()
    return TablePosterior(X, log_joint), log_joint.logsumexp(-1)


@pytest.mark.parametrize(("objective", "samples"), [("log_variance", 2), ("trajectory_balance", 1)])
def test_the_exact_posterior_is_stationary_for_any_behaviour(objective, samples):
    """Not on average: for every tuple of codes, whatever drew it."""
    model = tiny_model()
    q, log_px = exact_table(model)
    learner = GFlowNetEM(q, LogVariance() if objective == "log_variance" else TrajectoryBalance(LogZTable(q, log_px)), Given(samples, 0.5, 2.0))
    phi = list(learner.parameters())
    for image in X.split(1):
        for codes, _ in tuples(learner.behaviour.policy(q(model, image)), samples):
            learner.behaviour.codes = codes
            assert gradient(next(learner.losses(model, Batch(image))).value, phi).abs().max() < 1e-12


BEHAVIOURS = {
    "exploring": lambda: Exploring(3, 0.5, 2.0),
    "tempered": lambda: Exploring(3, 0.0, 0.5),
    "replay": lambda: Replay(Memory(2, 2, 4), 3),
    "gibbs": lambda: Moved(OnPolicy(3), Gibbs(), 2),
    "local_search": lambda: Moved(Exploring(3, 0.5), LocalSearch(0.2), 2),
    "greedy_search": lambda: Moved(Exploring(6, 0.9), GreedyLocalSearch()),
    "chains": lambda: Chains(Gibbs(), 2, 2, 3),
    "mixed": lambda: Mixed([OnPolicy(2), Exploring(1, 0.5), Replay(Memory(2, 2), 2), Moved(Replay(Memory(2, 2), 2), Gibbs())]),
}


@pytest.mark.parametrize("objective", ["log_variance", "trajectory_balance"])
@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_no_behaviour_moves_the_exact_posterior(behaviour, objective):
    """Neither its first codes nor those that it remembers later; while from elsewhere each has something to teach."""
    model = tiny_model()
    q, log_px = exact_table(model)
    balance = LogVariance() if objective == "log_variance" else TrajectoryBalance(LogZTable(q, log_px))
    learner = GFlowNetEM(q, balance, BEHAVIOURS[behaviour]().double(), OnlyE()).double()
    for batch in [Batch(X)] * 4:
        (loss,) = learner.losses(model, batch)
        assert gradient(loss.value, list(learner.parameters())).abs().max() < 1e-12
        learner.update(model, loss.statistics)
    q.logits.data += torch.randn(q.logits.shape, generator=torch.Generator().manual_seed(0))
    taught = [gradient(next(learner.losses(model, Batch(X))).value, [q.logits]).norm() for learner.step in range(8)]
    assert max(taught) > 0.01


def test_off_policy_a_scalar_log_z_pushes_the_exact_posterior_away():
    """By 2 E_x[(a - log p(x)) (b - q)] in the logits of a table, even at the best scalar a; on-policy by nothing."""
    model = tiny_model()
    q, log_px = exact_table(model)
    a = log_px.mean()
    for exploration in ((0.0, 1.0), (0.5, 1.0)):
        learner = GFlowNetEM(q, TrajectoryBalance(ScalarLogZ(float(a)), faithful=True).double(), Given(1, *exploration))
        pushed = expected_gradient(learner, model, X, [q.logits]).view_as(q.logits)
        p, b = log_q_table(q(model, X)).exp(), learner.behaviour.policy(q(model, X)).table().exp()
        torch.testing.assert_close(pushed, 2 * (a - log_px).unsqueeze(-1) * (b - p) / len(X), atol=1e-6, rtol=0)
        print(f"scalar log Z: gradient of norm {pushed.norm():.4f} at the exact posterior, behaviour (epsilon, temperature) = {exploration}")
        assert (pushed.norm() > 0.02) == (exploration != (0.0, 1.0))


def test_a_scalar_log_z_is_refused_off_policy_and_for_a_threshold():
    q = posterior("prefix_mlp")
    with pytest.raises(ValueError, match="scalar log Z is biased off-policy.*Exploring samples.*use AmortisedLogZ or LogVariance"):
        GFlowNetEM(q, scalar(), Exploring(4, 0.05))
    with pytest.raises(ValueError, match="scalar log Z the loss has the floor.*Threshold.*use AmortisedLogZ or LogVariance"):
        GFlowNetEM(q, scalar(), schedule=Threshold(1.0))
    GFlowNetEM(q, scalar(), Exploring(4, epsilon=0.0, temperature=1.0))  # which explores nothing


def test_a_faithful_preset_may_do_both_knowingly():
    GFlowNetEM(posterior("prefix_mlp"), scalar(faithful=True), Exploring(4, 0.05), Threshold(1.0))


def test_log_z_of_x_and_log_variance_may_do_both():
    for objective in (amortised(), LogVariance(), None):
        GFlowNetEM(posterior("prefix_mlp"), objective, Exploring(4, 0.05), Threshold(1.0))


@pytest.mark.parametrize(("shift", "rate"), [(0.0, 0.0), (2.0, 2.0)], ids=["exact", "wrong"])
def test_an_adaptive_schedule_waits_for_the_log_variance_to_fall(shift, rate):
    """The threshold is on the residual's variance within an image, whatever log p(x): at the exact posterior it is met at once. Theta stands still."""
    model = tiny_model().requires_grad_(False)
    q, _ = exact_table(model)
    q.logits.data[:, ::2] += shift
    learner = GFlowNetEM(q, LogVariance(), Exploring(32, 0.2), Threshold(0.1, 30, 0.5)).double()
    steps = "".join("E" if "e_loss" in metrics else "M" for metrics in fit(model, learner, [Batch(X)] * 40, torch.optim.SGD(q.parameters(), rate)))
    first, *_, last, _ = [len(row) for row in steps.split("M")]
    assert first == 1 if shift == 0 else 1 < first < 30, "E-steps until the posterior fits, no more and fewer than patience"
    assert last == 1, "then it still fits"


def test_the_variance_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="LogVariance compares samples.*at least 2; the behaviour draws 1: set samples=2 or more"):
        GFlowNetEM(posterior("prefix_mlp"), behaviour=OnPolicy(1))


def test_log_z_of_x_needs_a_posterior_with_features():
    model = tiny_model()
    q, _ = exact_table(model)
    with pytest.raises(AttributeError, match="TableCodes keeps no features of x: choose a posterior with an encoder"):
        next(GFlowNetEM(q, amortised()).losses(model, Batch(X)))
