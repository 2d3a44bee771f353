"""The benchmark of GFlowNet-EM compares like with like: with the same weights, all sides have the same densities and the same gradients."""

import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gflownet_em import report, textbook, train
from benchmarks.gflownet_em.ours import Ours
from benchmarks.gflownet_em.reference import Published
from benchmarks.gflownet_em.sides import SITES, SLEEP_WEIGHT, Setting, images
from benchmarks.gflownet_em.textbook import Textbook
from benchmarks.gflownet_em.weights import adopt, copy, published
from experiments.published.m_step import PublishedMStep
from latentcomp.batch import Batch
from latentcomp.evaluate import importance
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.learner import Learner
from latentcomp.phases.behaviour import Behaviour, OnPolicy
from latentcomp.phases.schedule import OnlyE, Period
from latentcomp.phases.sleep import Sleep

SETTING = Setting(channels=8, codes=3, batch=5)
CHECKOUT = os.environ.get("GFLOWNET_EM_CHECKOUT")
X = images(SETTING)


class Given(Behaviour):
    """These codes."""

    def __init__(self, z: Tensor) -> None:
        super().__init__(1)
        self.z = z

    def forward(self, model, q, batch, noise):
        return self.z.unsqueeze(0), None


@pytest.fixture
def sides() -> tuple[Ours, Textbook, Tensor]:
    """Both with our weights, and some codes."""
    torch.manual_seed(0)
    ours, loop = Ours(SETTING, X), Textbook(SETTING, X)
    copy(ours, loop)
    return ours, loop, torch.randint(SETTING.codes, (len(X), SITES))


def gradients(ours: Ours, learner: Learner) -> dict[str, dict[str, Tensor]]:
    """Of the loss that the learner yields first, under the published names: what lies in the place of the weights is their gradient."""
    loss = next(iter(learner.losses(ours.model, Batch(X))))
    parameters = [*ours.model.parameters(), *ours.posterior.parameters(), *ours.objective.parameters()]
    found = torch.autograd.grad(loss.value, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
        ours.objective.log_z.log_z.sub_(torch.tensor(float(SETTING.codes)).log())  # the published log Z lies higher by log K; its gradient does not
    return published(ours)


def in_order(named: dict[str, dict[str, Tensor]], *modules: str) -> Iterator[Tensor]:
    """The tensors of these modules."""
    return (tensor for name in modules for tensor in named[name].values())


def assert_equal(mine: Iterator[Tensor], module: nn.Module, loss: Tensor) -> None:
    """The gradients in the order of the module's parameters."""
    wanted = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    for gradient, other, parameter in zip(mine, wanted, module.parameters(), strict=True):
        torch.testing.assert_close(gradient.view_as(parameter), torch.zeros_like(parameter) if other is None else other, rtol=1e-4, atol=1e-6)


def test_densities(sides):
    ours, loop, z = sides
    state, log_q = textbook.rollout(loop.policy, X, textbook.given(z))
    torch.testing.assert_close(ours.posterior(ours.model, X).log_prob(z), log_q)
    torch.testing.assert_close(ours.model.log_likelihood(X, z), textbook.log_likelihood(loop.decoder, state, X))


def test_gradients_of_an_e_step(sides):
    """Encoded once and scored in one pass, or site by site from scratch."""
    ours, loop, z = sides
    loss = textbook.e_loss(loop.policy, loop.decoder.requires_grad_(False), X, textbook.given(z))
    mine = gradients(ours, GFlowNetEM(ours.posterior, ours.objective, Given(z), OnlyE()))
    assert_equal(in_order(mine, "gfn"), loop.policy, loss)


def test_gradients_of_a_sleep_step(sides, monkeypatch):
    ours, loop, z = sides
    loss = textbook.sleep_loss(loop.policy, X, z)
    monkeypatch.setattr(type(ours.model), "sample", lambda *arguments, **options: (X, z))
    mine = gradients(ours, Alternating(ours.posterior, schedule=OnlyE(), sleep=Sleep(SLEEP_WEIGHT / SITES)))
    assert_equal(in_order(mine, "gfn"), loop.policy, loss)


def test_gradients_of_an_m_step(sides):
    """On greedy codes, which are the same."""
    ours, loop, _ = sides
    loss = textbook.m_loss(loop.policy.requires_grad_(False), loop.decoder, X)
    mine = gradients(ours, GFlowNetEM(ours.posterior, ours.objective, OnPolicy(1), Period(0, 1), PublishedMStep(greedy=True)))
    assert_equal(in_order(mine, "dictionary", "decoder"), loop.decoder, loss)


def test_estimates_of_log_px_agree(sides):
    """Two images, 500 samples each: further apart than five standard errors of the difference once in 10^6 runs."""
    ours, loop, _ = sides
    estimate = importance.log_px(ours.model, ours.posterior, X[:2], samples=500, prior_share=0.0)
    torch.testing.assert_close(ours.log_px(X[:2], 500), estimate.log_px)
    assert ((loop.log_px(X[:2], 500) - estimate.log_px).abs() < 5 * 2**0.5 * estimate.stderr).all()


def test_the_report_is_of_all_sides_that_were_timed():
    """The estimate on trained weights is not asked of the textbook loop."""
    seconds = {"e_step": {"ours": [1.0, 2.0, 3.0], "textbook": [10.0], "reference": [8.0]}, "log_px_trained": {"ours": [1.0], "reference": [40.0]}}
    results = {"against": "reference", "seconds": seconds, "e_step": 4.0, "log_px_trained": 40.0, "memory_mib": {"steps": {"ours": 50.0, "reference": 100.0}}}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.table(results).splitlines()[2:]]
    assert rows[0] == ["e_step", "2.000 s", "8.000 s", "4.0", "1.25"]
    assert rows[1] == ["log_px_trained", "1.000 s", "40.000 s", "40.0", ""]
    assert rows[2][-2:] == ["0.50 of it", ""]


def test_weights_of_a_run_come_with_the_images_that_were_asked_for(tmp_path):
    torch.manual_seed(0)
    ours, kept = Ours(SETTING, X), tmp_path / "trained.pt"
    state = {"model": ours.model.state_dict(), "posterior": ours.posterior.state_dict(), "images": X[:3], "setting": [8, 3], "about": {"updates": 5}}
    torch.save(state, kept)
    other = Ours(SETTING, X)
    x, about = train.restore(kept, other, 2)
    assert torch.equal(x, X[:2])
    assert about == {"updates": 5}
    assert torch.equal(other.model.log_likelihood(X, torch.zeros(len(X), SITES).long()), ours.model.log_likelihood(X, torch.zeros(len(X), SITES).long()))
    with pytest.raises(ValueError, match="keeps 3 test images: ask for 1 to 3 of them, got --images 4"):
        train.restore(kept, ours, 4)
    with pytest.raises(ValueError, match=r"holds a model of \(C, K\) = \(8, 3\), the benchmark asks for \(4, 3\)"):
        train.restore(kept, Ours(SETTING._replace(channels=4), X), 2)
    with pytest.raises(FileNotFoundError, match="does not exist: run python -m benchmarks.gflownet_em.train"):
        train.restore(tmp_path / "none.pt", ours, 2)


@pytest.mark.skipif(CHECKOUT is None, reason="GFLOWNET_EM_CHECKOUT names no checkout of GFNOrg/GFlowNet-EM")
def test_the_published_networks_have_the_same_densities():
    torch.manual_seed(1)
    setting = SETTING._replace(checkout=CHECKOUT)
    theirs, ours = Published(setting, X), Ours(setting, X)
    adopt(ours, theirs)
    with torch.no_grad():
        state, log_q = theirs._sample(X)
        z = state.view(len(X), SETTING.codes, SITES).argmax(1)
        torch.testing.assert_close(ours.posterior(ours.model, X).log_prob(z), log_q.view(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.model.log_likelihood(X, z), theirs._log_likelihood(state, X), rtol=1e-4, atol=1e-3)
