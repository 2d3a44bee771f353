"""torchgfn as an independent oracle of our losses, and our posterior in torchgfn's hands."""

import subprocess
import sys

import pytest
import torch
from torch import nn

pytest.importorskip("gfn", reason="torchgfn is not installed: pip install 'latentcomp[torchgfn]'")

from gfn.gflownet import LogPartitionVarianceGFlowNet, TBGFlowNet
from gfn.samplers import Sampler

from latentcomp import objectives
from latentcomp.enumeration import all_codes
from latentcomp.phases.e_step import AmortisedLogZ
from latentcomp.phases.flows import PrefixFlow
from latentcomp.posteriors.exact import Exact
from latentcomp.torchgfn import CodeEnv, LogZEstimator, PolicyEstimator, TeacherForcedSubTB, to_trajectories, written
from tests.frequencies import assert_frequencies, positions
from tests.scenarios import FEATURES, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(3)
N, K, S = 3, 2, 4


@pytest.fixture(autouse=True)
def _double():
    """torchgfn makes weights and conditions in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Scene:
    """A tiny model, a posterior, its environment and codes of a behaviour policy that is not q."""

    def __init__(self, kind: str = "transformer", x: torch.Tensor = X) -> None:
        self.model, self.posterior = tiny_model(N, K), posterior(kind, N, K)
        for parameter in self.posterior.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        self.env = CodeEnv.of(self.model, x)
        self.policy = PolicyEstimator(self.posterior, self.env)
        self.q = self.policy.read(self.model, x)
        self.z = torch.randint(K, (S, len(x), N), generator=torch.Generator().manual_seed(4))
        with torch.no_grad():
            self.log_joint = self.model.log_joint(x, self.z)

    def trajectories(self):
        """From one teacher-forced pass."""
        return to_trajectories(self.env, self.z, self.q.log_prob_steps(self.z))

    def gradients(self, loss: torch.Tensor, *heads: nn.Module) -> list[torch.Tensor]:
        """In all parameters of the posterior and of the heads; zero where there is none."""
        parameters = [p for module in (self.posterior, *heads) for p in module.parameters()]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    def assert_equal(self, theirs: torch.Tensor, ours: torch.Tensor, *heads: nn.Module) -> None:
        """Values and gradients agree to 1e-6, and there is a gradient to speak of."""
        torch.testing.assert_close(theirs, ours, rtol=1e-6, atol=1e-9)
        gradients = self.gradients(ours, *heads)
        assert max(g.abs().max() for g in gradients) > 1e-3
        for their, our in zip(self.gradients(theirs, *heads), gradients, strict=True):
            torch.testing.assert_close(their, our, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["prefix_mlp", "transformer", "factorised"])
@pytest.mark.parametrize("recalculate", [False, True])
def test_trajectory_balance_is_torchgfns(kind, recalculate):
    scene = Scene(kind)
    log_z = AmortisedLogZ(FEATURES, 8)
    gfn = TBGFlowNet(scene.policy, None, logZ=LogZEstimator(log_z, scene.policy), constant_pb=True)
    theirs = gfn.loss(scene.env, scene.trajectories(), recalculate_all_logprobs=recalculate)
    ours = objectives.trajectory_balance_loss(scene.q.log_prob(scene.z), scene.log_joint, log_z(scene.q))
    scene.assert_equal(theirs, ours, log_z)


def test_log_variance_is_torchgfns_within_one_x_up_to_the_unbiased_factor():
    scene = Scene(x=X[:1])
    theirs = LogPartitionVarianceGFlowNet(scene.policy, None, constant_pb=True).loss(scene.env, scene.trajectories(), recalculate_all_logprobs=False)
    ours = objectives.log_variance_loss(scene.q.log_prob(scene.z), scene.log_joint)
    scene.assert_equal(theirs, ours * (S - 1) / S)  # torchgfn divides by S


def test_torchgfns_log_variance_over_several_x_does_not_vanish_at_the_exact_posterior():
    model, env = tiny_model(N, K), CodeEnv.of(tiny_model(N, K), X)
    q = Exact()(model, X)
    z = all_codes((K,) * N).unsqueeze(1).expand(-1, len(X), -1)
    steps = torch.cat([q.log_prob(z).unsqueeze(-1), torch.zeros(*z.shape[:-1], N - 1)], -1)
    theirs = LogPartitionVarianceGFlowNet(PolicyEstimator(posterior("transformer", N, K), env), None, constant_pb=True)
    loss = theirs.loss(env, to_trajectories(env, z, steps), recalculate_all_logprobs=False)
    log_px = brute_force_log_joint(model, X).logsumexp(1)
    torch.testing.assert_close(loss, log_px.var(unbiased=False))
    assert objectives.log_variance_loss(q.log_prob(z), model.log_joint(X, z)) < 1e-20


def with_exit(scene: Scene, flow: PrefixFlow) -> tuple[torch.Tensor, torch.Tensor]:
    """Flows and log q of torchgfn's trajectories, which leave by a step of their own: the complete code is a state with a flow, its reward."""
    log_flow = torch.cat([flow(scene.q, scene.z), scene.log_joint.unsqueeze(-1)], -1)
    steps = scene.q.log_prob_steps(scene.z)
    return log_flow, torch.cat([steps, torch.zeros_like(steps[..., :1])], -1)


@pytest.mark.parametrize("lambda_", [0.5, 0.9, 1.0])
def test_sub_trajectory_balance_is_torchgfns_geometric_within(lambda_):
    scene = Scene()
    flow = PrefixFlow(8, 16)
    gfn = TeacherForcedSubTB(scene.policy, flow, weighting="geometric_within", lamda=lambda_)
    theirs = gfn.loss(scene.env, scene.trajectories(), recalculate_all_logprobs=False)
    ours = objectives.sub_trajectory_balance_loss(*with_exit(scene, flow), scene.log_joint, lambda_)
    scene.assert_equal(theirs, ours, flow)


def test_detailed_balance_is_torchgfns_sub_trajectories_of_one_step():
    scene = Scene()
    flow = PrefixFlow(8, 16)
    theirs = TeacherForcedSubTB(scene.policy, flow, weighting="DB").loss(scene.env, scene.trajectories(), recalculate_all_logprobs=False)
    scene.assert_equal(theirs, objectives.detailed_balance_loss(*with_exit(scene, flow), scene.log_joint), flow)


def test_the_flows_of_one_pass_are_those_that_a_stock_estimator_computes_prefix_by_prefix():
    scene = Scene()
    flow = PrefixFlow(8, 16)

    class Slow(TeacherForcedSubTB):
        def calculate_log_state_flows(self, env, trajectories, log_pf_trajectories):
            states, rewards, rows = trajectories.states, trajectories.log_rewards, []
            for t in range(N):
                q = scene.q.select(states[t].conditions[:, 0].long())
                rows.append(flow(q, states[t].tensor.clamp_min(0).unsqueeze(0))[0, :, t])
            return torch.stack([*rows, rewards])

    fast, slow = (kind(scene.policy, flow).loss(scene.env, scene.trajectories(), recalculate_all_logprobs=False) for kind in (TeacherForcedSubTB, Slow))
    scene.assert_equal(fast, slow, flow)


def test_no_gradient_reaches_the_model():
    scene = Scene()
    gfn = TBGFlowNet(scene.policy, None, logZ=LogZEstimator(AmortisedLogZ(FEATURES, 8), scene.policy), constant_pb=True)
    gfn.loss(scene.env, scene.trajectories(), recalculate_all_logprobs=False).backward()
    assert all(p.grad is None for p in scene.model.parameters())
    assert not {id(p) for p in gfn.logz_parameters()} & {id(p) for p in scene.posterior.parameters()}


@pytest.mark.parametrize("kind", ["prefix_mlp", "transformer", "factorised"])
def test_the_stock_sampler_draws_from_q(kind):
    """At the error rate that ``frequencies`` states, for each x by itself."""
    scene = Scene(kind)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = Sampler(scene.policy).sample_trajectories(scene.env, conditions=scene.env.conditions(2000), n=6000)
    z = drawn.terminating_states.tensor.view(2000, 3, N)
    for b, probabilities in enumerate(scene.q.table().exp()):
        assert_frequencies(positions(z[:, b], (K,) * N), probabilities)


def test_what_the_stock_sampler_records_is_our_log_q_and_our_reward():
    scene = Scene()
    drawn = Sampler(scene.policy).sample_trajectories(scene.env, n=12, conditions=scene.env.conditions(S), save_logprobs=True)
    z = drawn.terminating_states.tensor.view(S, 3, N)
    torch.testing.assert_close(drawn.log_probs[:-1].T.reshape(S, 3, N), scene.q.log_prob_steps(z))
    assert (drawn.log_probs[-1] == 0).all()
    torch.testing.assert_close(drawn.log_rewards.view(S, 3), scene.model.log_joint(X, z))


@pytest.mark.parametrize("settings", [{"epsilon": 0.3}, {"temperature": 2.0}])
def test_torchgfns_exploration_is_ours(settings):
    scene = Scene()
    ours = scene.q.explore(**settings)
    trajectories = scene.trajectories()
    states = trajectories.states[:-1].flatten()
    logits = scene.policy(states, states.conditions)
    theirs = scene.policy.to_probability_distribution(states, logits, **settings).log_prob(trajectories.actions.tensor.flatten(0, 1))
    torch.testing.assert_close(theirs.view(N + 1, -1)[:-1].T.reshape(S, 3, N), ours.log_prob_steps(scene.z))


def test_trajectories_are_what_the_environment_itself_would_step_through():
    scene = Scene()
    made, states = scene.trajectories(), scene.env.reset((S * 3,))
    for t in range(N + 1):
        assert torch.equal(states.tensor, made.states[t].tensor)
        assert states.forward_masks.gather(-1, made.actions[t].tensor).all()
        assert torch.equal(written(states.tensor), torch.full((S * 3,), t))
        states = scene.env._step(states, made.actions[t])
    assert states.is_sink_state.all()
    assert made.states[N + 1].is_sink_state.all()
    assert torch.equal(made.terminating_states.tensor, scene.z.flatten(0, 1))


def test_steps_can_be_taken_back_and_the_backward_mask_names_the_last_code():
    scene = Scene()
    states = scene.env.states_from_tensor(scene.z.flatten(0, 1))
    for site in reversed(range(N)):
        last = states.tensor[:, site : site + 1]
        assert torch.equal(states.backward_masks, nn.functional.one_hot(last[:, 0], K).bool())
        states = scene.env._backward_step(states, scene.env.actions_from_tensor(last))
    assert states.is_initial_state.all()
    assert not states.backward_masks.any()


def test_cardinalities_may_differ_and_codes_that_a_site_lacks_are_never_drawn():
    k = (2, 4, 3)
    weights = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    env = CodeEnv(k, lambda z, conditions: weights[conditions[:, 0].long(), positions(z, k)], debug=True)
    uniform = nn.Module()
    uniform.input_dim = 3
    from gfn.estimators import DiscretePolicyEstimator

    class Uniform(DiscretePolicyEstimator):
        def forward(self, states, conditions=None):
            return torch.zeros(len(states.tensor), self.n_actions)

    drawn = Sampler(Uniform(uniform, env.n_actions)).sample_trajectories(env, n=4000)
    assert_frequencies(positions(drawn.terminating_states.tensor, k), torch.full((24,), 1 / 24))
    assert env.n_terminating_states == 24
    assert torch.equal(env.get_terminating_states_indices(env.terminating_states), torch.arange(24))
    for b in range(2):
        torch.testing.assert_close(env.true_dist(torch.tensor([float(b)])), weights[b].softmax(0))
        assert env.log_partition(torch.tensor([float(b)])) == pytest.approx(float(weights[b].logsumexp(0)))
    with pytest.raises(ValueError, match="made from a reward"):
        env.conditions()


def test_the_target_is_the_exact_posterior_and_log_z_is_log_px():
    scene = Scene()
    exact, log_px = Exact()(scene.model, X), brute_force_log_joint(scene.model, X).detach().logsumexp(1)
    for b in range(3):
        torch.testing.assert_close(scene.env.true_dist(torch.tensor([float(b)])), exact.table()[b].exp().detach())
        assert scene.env.log_partition(torch.tensor([float(b)])) == pytest.approx(float(log_px[b]))


@pytest.mark.usefixtures("unchecked")
def test_torchgfns_own_validation_sees_a_posterior_learn():
    scene = Scene(x=X[:1])
    gfn = TBGFlowNet(scene.policy, None, constant_pb=True)
    torch.manual_seed(0)
    before, _ = scene.env.validate(gfn, 4000, check_sample_sufficiency=False)
    optimizer = torch.optim.Adam([{"params": scene.posterior.parameters(), "lr": 1e-2}, {"params": gfn.logz_parameters(), "lr": 1e-1}])
    for _ in range(300):
        q = scene.policy.read(scene.model, X[:1])
        z = q.explore(0.1).sample((16,))
        trajectories = to_trajectories(scene.env, z, q.log_prob_steps(z))
        trajectories.states._conditions = None  # one datum: torchgfn's log Z is then a plain number
        loss = gfn.loss(scene.env, trajectories, recalculate_all_logprobs=False, log_rewards=scene.model.log_joint(X[:1], z).detach().flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scene.policy.read(scene.model, X[:1])
    after, _ = scene.env.validate(gfn, 4000, check_sample_sufficiency=False)
    assert before["l1_dist"] > 0.3
    assert after["l1_dist"] < 0.1
    assert after["logZ_diff"] < 0.05


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda s: PolicyEstimator(s.posterior, s.env)(s.env.reset((2,))), "read no data"),
        (lambda s: s.policy(s.env.reset((2,))), "pass conditions"),
        (lambda s: s.policy(s.env.reset((2,)), torch.zeros(2, 5)), "number of a datum"),
        (lambda s: to_trajectories(s.env, s.z[..., :2], s.q.log_prob_steps(s.z)), r"shape \(\*S, B, 3\)"),
        (lambda s: to_trajectories(s.env, s.z[:, :2], s.q.log_prob_steps(s.z)[:, :2]), "whole number of samples"),
        (lambda s: CodeEnv((), lambda z, c: z), "at least one site"),
        (lambda s: CodeEnv.of(s.model, X[:, :, :1]), "images must have shape"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_wrong_is_named(break_it, message):
    with pytest.raises((RuntimeError, ValueError), match=message):
        break_it(Scene())


def test_without_torchgfn_the_error_says_how_to_install_it():
    code = "import sys; sys.modules['gfn'] = None; import latentcomp.torchgfn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pip install 'latentcomp[torchgfn]'" in done.stderr
