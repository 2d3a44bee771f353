"""The ELBOs: their loss, whose gradient goes where, and what SVI and torch's own optimisers learn with them."""

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical, Normal
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule
from torch import nn

from experiments.programs import asia, hidden_markov, mixture
from latentcomp.phases import Exploring, LogVariance, Memory, OnlyE, PrefixFlow, Replay, Sampled, Sleep, SubTrajectoryBalance, Together, TrajectoryBalance
from latentcomp.pyro import GFlowNetELBO, GFlowNetGuide, ReweightedWakeSleep, UnsupportedModel, exact_posterior


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


class Learned(PyroModule):
    """A hidden Markov model with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(3))
        self.transition = nn.Parameter(torch.eye(3))
        self.emission = nn.Parameter(torch.tensor(hidden_markov.EMISSION.log().tolist()) * 0.5)

    def forward(self, x):
        hidden_markov.program(x, self.start.softmax(-1), self.transition.softmax(-1), self.emission.softmax(-1))


def tv(guide, program, *args) -> float:
    """Mean total variation to the exact posterior."""
    return float((guide.q(*args).table().exp() - exact_posterior(program, *args).log_p.exp()).abs().sum(-1).mean() / 2)


@pytest.mark.parametrize("elbo", [GFlowNetELBO, ReweightedWakeSleep])
def test_the_loss_is_the_negative_elbo_as_pyro_counts_it(elbo):
    x, guide = mixture.data(4, 1), GFlowNetGuide(mixture.program)
    guide(x)
    exact, log_q = exact_posterior(mixture.program, x), guide.q(x).table()
    expected = float((log_q.exp() * (log_q - exact.log_p)).sum() - exact.log_px.sum())
    ours = elbo(num_particles=2000).loss(mixture.program, guide, x)
    theirs = Trace_ELBO(num_particles=500, vectorize_particles=True).loss(mixture.program, guide, x)
    residual = log_q - exact.log_p
    spread = float((log_q.exp() * (residual - (log_q.exp() * residual).sum(-1, keepdim=True)).square()).sum().sqrt())
    assert abs(ours - expected) < 5 * spread / math.sqrt(2000)
    assert abs(theirs - expected) < 5 * spread / math.sqrt(500)


def test_the_model_hears_the_m_step_and_the_guide_the_e_step_alone():
    """With z drawn by an exploring policy that is uniform, the model's gradient is still an expectation under q, far from that under the uniform codes."""
    model, x = Learned(), hidden_markov.data(40, 1)
    guide = GFlowNetGuide(model)
    guide(x)
    guide.posterior.policy.head.data.mul_(8)  # an untrained q is nearly uniform, and could not be told from the exploring policy
    elbo = GFlowNetELBO(behaviour=Exploring(2, 1.0), m_step=Sampled(2000))
    elbo.differentiable_loss(model, guide, x).backward()
    program, _ = guide.program(model, (x,), {})
    codes = exact_posterior(model, x).codes
    log_joint = program.log_joint(None, codes.unsqueeze(1).expand(-1, 40, -1)).T
    parameters = list(model.parameters())

    def under(q):
        return torch.cat([g.flatten() for g in torch.autograd.grad(-(q * log_joint).sum(), parameters, retain_graph=True)])

    q, uniform = under(guide.q(x).table().exp().detach()), under(torch.full_like(log_joint, 1 / log_joint.shape[1]))
    found = torch.cat([parameter.grad.flatten() for parameter in parameters])
    assert (found - q).norm() < 0.1 * (uniform - q).norm()  # 80,000 samples
    guide.zero_grad()
    frozen = GFlowNetELBO(objective=LogVariance(), m_step=Sampled(1))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    frozen.differentiable_loss(model, guide, x).backward()
    assert max(float(p.grad.abs().max()) for p in guide.posterior.parameters()) > 0


@pytest.mark.parametrize("elbo", [GFlowNetELBO, ReweightedWakeSleep])
def test_e_steps_alone_leave_the_model_without_a_gradient(elbo):
    x, model = hidden_markov.data(10, 1), Learned()
    guide = GFlowNetGuide(model)
    guide(x)
    for schedule, learns in ((OnlyE(), False), (Together(), True)):
        guide.zero_grad()
        model.zero_grad()
        elbo(num_particles=3, schedule=schedule).differentiable_loss(model, guide, x).backward()
        assert all((parameter.grad is not None) == learns for parameter in model.parameters())
        assert max(float(parameter.grad.abs().max()) for parameter in guide.posterior.parameters() if parameter.grad is not None) > 0


def test_a_posterior_that_the_guide_can_represent_is_learned_from_codes_that_are_not_its_own():
    """All codes come from the uniform distribution, and the optimum stays where it is."""

    def program(x):
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin, 1.0), obs=x)

    x, guide = torch.zeros(4), GFlowNetGuide(program)
    guide(x)
    elbo = GFlowNetELBO(behaviour=Exploring(8, 1.0))
    optimizer = torch.optim.Adam(guide.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        elbo.differentiable_loss(program, guide, x).backward()
        optimizer.step()
    assert tv(guide, program, x) < 1e-3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [
    lambda guide: GFlowNetELBO(),
    lambda guide: GFlowNetELBO(TrajectoryBalance(guide.log_z)),
    lambda guide: GFlowNetELBO(sleep=Sleep()),
    lambda guide: ReweightedWakeSleep(),
], ids=["log_variance", "trajectory_balance", "sleep", "wake_sleep"])  # fmt: skip
def test_svi_learns_the_posterior_of_explaining_away(make):
    x = asia.data(64, 1)
    guide = GFlowNetGuide(asia.program)
    guide(x)
    before = tv(guide, asia.program, x)
    elbo = make(guide)
    svi = SVI(asia.program, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(80):
        svi.step(x)
    assert before > 0.5
    assert tv(guide, asia.program, x) < 0.12


@pytest.mark.slow
def test_two_torch_optimisers_alternate_and_reach_exact_em():
    """E-steps on the guide, M-steps on the model; -log p(x) against that of as many exact M-steps from the same start, by enumeration."""
    x = hidden_markov.data(200, 1)
    oracle, model = Learned(), Learned()
    exact_optimizer = torch.optim.Adam(oracle.parameters(), 3e-2)
    enumeration = TraceEnum_ELBO(max_plate_nesting=1)
    for _ in range(60):
        exact_optimizer.zero_grad()
        enumeration.differentiable_loss(oracle, lambda x: None, x).backward()
        exact_optimizer.step()
    guide, elbo = GFlowNetGuide(model), GFlowNetELBO(num_particles=8)
    loss = elbo(model, guide)
    loss(x)
    e, m = torch.optim.Adam(guide.parameters(), 5e-3), torch.optim.Adam(model.parameters(), 3e-2)
    for step in range(60 * 6):
        loss.zero_grad()
        loss(x).backward()
        (m if step % 6 == 5 else e).step()
    ours, best = (float(exact_posterior(p, x).log_px.mean()) for p in (model, oracle))
    assert best - float(exact_posterior(Learned(), x).log_px.mean()) > 0.05
    assert ours > best - 0.02


def test_svi_finds_the_parameters_of_model_and_guide():
    def program(x):
        p = pyro.param("p", torch.tensor(0.5), constraint=torch.distributions.constraints.unit_interval)
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", Bernoulli(p))
            pyro.sample("x", Normal(6 * coin, 1.0), obs=x)

    x = torch.tensor([0.0, 0.0, 0.0, 6.0])
    guide = GFlowNetGuide(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 2e-2}), GFlowNetELBO())
    for _ in range(200):
        svi.step(x)
    assert float(pyro.param("p").detach()) == pytest.approx(0.25, abs=0.03)
    assert any(key.startswith("GFlowNetGuide$$$") for key in pyro.get_param_store())


def test_subsampling_scales_loss_and_gradients():
    x = torch.randn(12)

    def program(x, size=None):
        with pyro.plate("data", len(x), subsample_size=size) as index:
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin, 1.0), obs=x[index])

    guide = GFlowNetGuide(program)
    guide(x)
    elbo = GFlowNetELBO(num_particles=200)
    whole = elbo.loss(program, guide, x)
    parts = torch.tensor([elbo.loss(program, guide, x, 4) for _ in range(60)])
    assert abs(float(parts.mean()) - whole) < 5 * float(parts.std()) / math.sqrt(60)
    assert float(parts.std()) > 0


def test_a_term_outside_the_plate_counts_once_in_both_losses():
    def program(x, penalty):
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin, 1.0), obs=x)
        pyro.factor("penalty", -penalty)

    x, guide = torch.zeros(4), GFlowNetGuide(program)
    guide(x, torch.tensor(0.0))
    penalty = torch.tensor(7.0, requires_grad=True)
    losses = []
    for value in (torch.tensor(0.0), penalty):
        pyro.set_rng_seed(1)
        losses.append((GFlowNetELBO().loss(program, guide, x, value), GFlowNetELBO().differentiable_loss(program, guide, x, value)))
    assert losses[1][0] - losses[0][0] == pytest.approx(7.0, abs=1e-4)
    assert float((losses[1][1] - losses[0][1]).detach()) == pytest.approx(7.0, abs=1e-4)
    losses[1][1].backward()
    assert float(penalty.grad) == pytest.approx(1.0)


def test_memories_are_keyed_by_the_rows_that_the_plate_chose():
    def program(x):
        with pyro.plate("data", len(x), subsample_size=3) as index:
            z = pyro.sample("z", Categorical(torch.ones(4)))
            pyro.sample("x", Normal(z.float(), 1.0), obs=x[index])

    x, guide = torch.arange(6.0), GFlowNetGuide(program)
    guide(x)
    memory = Memory(size=6, sites=1, capacity=4)
    elbo = GFlowNetELBO(behaviour=Replay(memory))
    for _ in range(12):
        elbo.loss_and_grads(program, guide, x)
    assert elbo._learners[guide].step == 12
    z = torch.arange(4.0)
    for row, (codes, scores) in enumerate(zip(memory.codes, memory.scores, strict=True)):
        known = scores.isfinite()
        assert known.any(), "every row was chosen at least once"
        expected = Normal(z[codes[known, 0].long()], 1.0).log_prob(x[row]) - math.log(4)
        torch.testing.assert_close(scores[known], expected)  # each row remembers what it scored with its own datum


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("guide", "trains a GFlowNetGuide, got function"),
        ("sleep", "drop sleep"),
        ("model", r"the guide knows the latent sites \['z_0'.*the model has \['asia'"),
    ],
)
def test_what_does_not_fit_is_named(case, message):
    x = hidden_markov.data(3, 1)
    guide = GFlowNetGuide(hidden_markov.program, features=lambda x: x.float())
    guide(x)
    calls = {
        "guide": lambda: GFlowNetELBO().loss(hidden_markov.program, lambda x: None, x),
        "sleep": lambda: GFlowNetELBO(sleep=Sleep()).differentiable_loss(hidden_markov.program, guide, x),
        "model": lambda: GFlowNetELBO().loss(asia.program, guide, x[:, :2].float()),
    }
    with pytest.raises((TypeError, UnsupportedModel), match=message):
        calls[case]()


def test_a_flow_head_belongs_to_the_guide():
    x = asia.data(8, 1)
    guide, flow = GFlowNetGuide(asia.program), PrefixFlow(64)
    elbo = GFlowNetELBO(SubTrajectoryBalance(flow))
    with pytest.raises(ValueError, match="no optimiser would find objective.flow"):
        elbo.differentiable_loss(asia.program, guide, x)
    guide.flow = flow
    elbo.differentiable_loss(asia.program, guide, x).backward()
    assert all(p.grad is not None for p in flow.parameters())


def test_a_global_parameter_s_site_may_be_hidden():
    def program(x):
        mean = pyro.sample("mean", Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            coin = pyro.sample("coin", Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", Normal(coin + mean, 1.0), obs=x)

    hidden = poutine.block(program, hide=["mean"])
    guide, x = GFlowNetGuide(hidden), torch.zeros(4)
    GFlowNetELBO().loss_and_grads(hidden, guide, x)
    with pytest.raises(UnsupportedModel, match="'mean'.*is continuous.*separate guide"):
        GFlowNetGuide(program)(x)
