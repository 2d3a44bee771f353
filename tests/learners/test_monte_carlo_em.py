"""Monte-Carlo EM: where the chains have arrived, theta follows log p(x) and q the forward KL; chains arrive, and go on where they were."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.evaluate.exact import exact
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.monte_carlo_em import MonteCarloEM
from latentcomp.moves import Gibbs, LocalSearch
from latentcomp.nn.mlp import ImageTrunk
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.phases.behaviour import Behaviour, Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.chains import Chains
from latentcomp.phases.e_step import CrossEntropy
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import EachBatch, OnlyE, Schedule, Together
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.posteriors.exact import Exact
from latentcomp.train import fit
from tests.learners.contract import adam
from tests.learners.tuples import expectation, gradient, log_q_table
from tests.scenarios import IMAGE, brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)


class Told(Behaviour):
    """The codes it was told, as if chains had come there."""

    on_policy = False
    of_posterior = True
    codes = torch.empty(0)

    def forward(self, *_: object) -> tuple[torch.Tensor, None]:
        """The codes."""
        return self.codes, None


class MOnly(Schedule):
    """M-steps alone."""

    def updates(self, step: int) -> tuple[str, ...]:
        """M."""
        return ("M",)


@pytest.mark.parametrize("schedule", [EachBatch(), Together(), MOnly()], ids=lambda schedule: type(schedule).__name__)
def test_from_codes_of_the_exact_posterior_theta_learns_log_px_and_q_the_forward_kl(schedule):
    """Fisher's identity, over all codes weighed by p(z|x)."""
    model = tiny_model(learned_prior=True)
    learner = MonteCarloEM(posterior("prefix_mlp"), Chains(Gibbs(), 2, 2), schedule)
    learner.behaviour = Told(1)
    theta, phi = list(model.parameters()), list(learner.parameters())

    def estimate(image: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        learner.behaviour.codes = z
        return sum(gradient(loss.value, [*theta, *phi]) for loss in learner.losses(model, Batch(image)))

    given = expectation(X, lambda image: Exact()(model, image), 1, estimate)
    log_joint = brute_force_log_joint(model, X)
    forward = -(log_joint.detach().softmax(-1) * log_q_table(learner.posterior(model, X))).sum(-1).mean()
    oracle = -log_joint.logsumexp(-1).mean() + (0 if isinstance(schedule, MOnly) else forward)
    torch.testing.assert_close(given, gradient(oracle, [*theta, *phi]))


def test_the_codes_of_the_e_step_are_those_of_the_m_step_and_of_the_next_visit(monkeypatch):
    model, learner = tiny_model(), MonteCarloEM(posterior("factorised"), Chains(Gibbs(), 2, 2, samples=3)).double()
    seen, log_joint = [], model.log_joint
    monkeypatch.setattr(learner.behaviour.kernel, "forward", lambda *arguments: arguments[3], raising=False)  # chains that stand still
    monkeypatch.setattr(model, "log_joint", lambda x, z, c=None: seen.append(z) or log_joint(x, z, c), raising=False)
    list(fit(model, learner, [Batch(X)] * 2, adam(model, learner)))
    assert len(seen) == 4
    assert all(torch.equal(z, seen[0]) for z in seen)
    assert torch.equal(learner.behaviour.states.long().movedim(0, 1), seen[0])


def test_chains_that_were_not_built_for_the_data_are_refused():
    with pytest.raises(ValueError, match=r"must lie in 0..0, for Chains was built with size=1: build it for the whole training set; got 0..1"):
        next(MonteCarloEM(posterior("factorised"), Chains(Gibbs(), 1, 2)).losses(tiny_model(), Batch(X)))
    with pytest.raises(ValueError, match="Chains was built for sites=3, the model has 2"):
        next(MonteCarloEM(posterior("factorised"), Chains(Gibbs(), 2, 3)).losses(tiny_model(), Batch(X)))
    with pytest.raises(ValueError, match="at least one datum and one site, got size=0"):
        Chains(Gibbs(), 0, 2)


def test_samples_that_are_not_the_posterior_s_are_not_imitated():
    """q would learn its own samples, or the policy's that explores."""
    memory = Memory(2, 2)
    for behaviour in (OnPolicy(3), Exploring(3), Replay(memory, 2), Mixed([FromPosterior(Exact(), 2), OnPolicy(1)])):
        with pytest.raises(ValueError, match=f"CrossEntropy learns the very distribution of its samples, and those of {type(behaviour).__name__} are not"):
            GFlowNetEM(posterior("factorised"), CrossEntropy(), behaviour)
    for behaviour in (FromPosterior(Exact(), 2), Moved(OnPolicy(2), Gibbs()), Mixed([FromPosterior(Exact(), 2), Moved(Replay(memory, 1), Gibbs())])):
        GFlowNetEM(posterior("factorised"), CrossEntropy(), behaviour)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kernel", [Gibbs(), LocalSearch(0.1)], ids=lambda kernel: type(kernel).__name__)
def test_with_the_model_frozen_q_learns_the_exact_posterior(kernel):
    """Forward KL from chains of 8 codes an image: what is left is the noise of the last updates."""
    model = tiny_model().float()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).view(-1, *IMAGE)[::4]
    torch.manual_seed(1)
    q = Autoregressive(ImageTrunk(IMAGE, (32, 32)), PrefixMLP((3, 3), 32, 32))
    learner = MonteCarloEM(q, Chains(kernel, 16, 2, samples=8), OnlyE())
    optimizer = adam(model, learner, 0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    start = float(exact(model, q, images).kl_p_q.mean())
    for _ in fit(model, learner, [Batch(images)] * 400, optimizer):
        rate.step()
    end = float(exact(model, q, images).kl_p_q.mean())
    print(f"frozen model, chains of {type(kernel).__name__}: mean KL(p(z|x) || q) from {start:.3f} to {end:.5f} nats")
    assert start > 0.1
    assert end < 0.02
