"""The faithful preset against its formulas, written out by hand as the published scripts compute them: dense one-hot states, one site at a time.

Source of every formula: GFNOrg/GFlowNet-EM, discrete_vae (Hu et al., 2023). Where ours is the same number by another way, the comment says which.
"""

import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy, mse_loss, one_hot

from experiments import settings
from experiments.execute import Built, build
from experiments.published.vq import SMOOTHING, PublishedEMACodebook
from latentcomp.batch import Batch
from latentcomp.train import fit
from tests import small_mnist
from tests.learners.contract import assert_same, state
from tests.processes.several import outcomes

K, SITES, PIXELS = 8, 16, 784
X = (small_mnist.images(6, 5) > 127).double().unsqueeze(1)
BATCH = Batch(X, index=torch.arange(6))


def built(tmp_path, row: str, *overrides: str) -> Built:
    """A row at eight channels, in float64."""
    sizes = ("budget.validation=20", "budget.test=4", f"data.root={small_mnist.write(tmp_path)}")
    made = build(settings.row("mnist", row, "smoke", 0, (*sizes, *overrides)))
    made.model.double()
    made.learner.double()
    return made


def at_step(made: Built, step: int) -> Built:
    made.learner.step = step
    return made


def published_log_q(posterior, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Codes and log q(z|x), sixteen passes over a dense state; greedy codes where none are given."""
    policy, features = posterior.policy, posterior.trunk(x)
    state, chosen, total = x.new_zeros(len(x), K, SITES), [], x.new_zeros(len(x))
    joined = torch.cat([policy.context.weight, policy.joined.weight], 1)
    for site in range(SITES):
        prefix = policy.prefix(policy.first(state.flatten(1)))
        hidden = (torch.cat([features, prefix], 1) @ joined.T + policy.joined.bias).relu()
        p = policy.head(hidden).softmax(-1).view(-1, K, SITES)[:, :, site] + 1e-9  # the softmax over all K N actions comes before the slice
        p = p / p.sum(-1, keepdim=True)
        code = p.argmax(-1) if z is None else z[:, site]
        total = total + p.gather(-1, code.unsqueeze(-1)).squeeze(-1).log()
        state = state.clone()
        state[torch.arange(len(x)), code, site] = 1
        chosen.append(code)
    return torch.stack(chosen, -1), total


def pixels(made: Built, z: Tensor) -> Tensor:
    return made.model.decoder(made.model.codebook.weight[z]).sigmoid()


def gradients(loss: Tensor, of) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for p, g in zip(of, torch.autograd.grad(loss, of, allow_unused=True, retain_graph=True), strict=True)]


@pytest.mark.parametrize("row", ["faithful_gflownet_em", "faithful_greedy", "faithful_prior"])
def test_e_step(tmp_path, row):
    """(log Z + log q / 16 - log p(x|z) / 16)^2, with log p(z) in the reward where the prior is learned; one scalar log Z, here less log K under a uniform
    prior, since the library's reward always holds log p(z).
    """
    made = at_step(built(tmp_path, row), 400)
    (loss, *_) = made.learner.losses(made.model, BATCH)
    assert loss.term == "E-step"
    posterior, log_z = made.learner.posterior, made.learner.objective.log_z.log_z
    (z,) = posterior(made.model, X).sample((1,), made.learner.noise(BATCH))
    _, log_q = published_log_q(posterior, X, z)
    reward = -binary_cross_entropy(pixels(made, z), X, reduction="none").flatten(1).sum(1)
    if row == "faithful_prior":
        assert log_z.item() == 1
        logits = made.model.prior.network.layers(one_hot(z, K).double().mT.unflatten(-1, (4, 4)))
        reward = reward - cross_entropy(logits, z.unflatten(-1, (4, 4)), reduction="none").flatten(1).sum(1)
        published = log_z
    else:
        assert log_z.item() == pytest.approx(1 - math.log(K))
        published = log_z + math.log(K)
    wanted = (published + log_q / SITES - reward.detach() / SITES).square().mean()
    torch.testing.assert_close(loss.value, wanted)
    phi = list(made.learner.parameters())
    torch.testing.assert_close(gradients(loss.value, phi), gradients(wanted, phi))


@pytest.mark.parametrize("row", ["faithful_greedy", "faithful_prior"])
def test_sleep(tmp_path, row):
    """-10 log q / 16 on dreams of the model."""
    made = built(tmp_path, row)
    loss = made.learner.sleep(made.model, made.learner.posterior, BATCH, made.learner.noise(BATCH))
    x, z = made.model.sample(len(X), None, made.learner.noise(BATCH))
    _, log_q = published_log_q(made.learner.posterior, x, z)
    torch.testing.assert_close(loss, -10 * log_q.mean() / SITES)


def test_sleep_follows_three_e_steps_in_ten(tmp_path):
    """Four standard errors of 2,000 coins."""
    made = built(tmp_path, "faithful_greedy")
    assert abs(sum(made.learner.sleep.due(0, step) for step in range(2000)) / 2000 - 0.3) < 4 * math.sqrt(0.21 / 2000)


def test_m_step_with_greedy_codes(tmp_path):
    made = at_step(built(tmp_path, "faithful_greedy"), 0)
    (loss,) = made.learner.losses(made.model, BATCH)
    z, _ = published_log_q(made.learner.posterior, X)
    wanted = binary_cross_entropy(pixels(made, z), X)
    torch.testing.assert_close(loss.value, wanted)
    theta = list(made.model.parameters())
    torch.testing.assert_close(gradients(loss.value, theta), gradients(wanted, theta))
    assert {id(p) for p in loss.learns} == {id(p) for p in theta}


def test_m_step_with_sampled_codes(tmp_path):
    made = at_step(built(tmp_path, "faithful_gflownet_em"), 0)
    (loss,) = made.learner.losses(made.model, BATCH)
    z = made.learner.posterior(made.model, X).sample((), made.learner.noise(BATCH))
    torch.testing.assert_close(loss.value, binary_cross_entropy(pixels(made, z), X))


def test_m_step_of_decoder_and_prior(tmp_path):
    """Greedy codes for the decoder; a second draw, never greedy, for the PixelCNN, a mean over sites."""
    made = at_step(built(tmp_path, "faithful_prior"), 0)
    (loss,) = made.learner.losses(made.model, BATCH)
    greedy, _ = published_log_q(made.learner.posterior, X)
    drawn = made.learner.posterior(made.model, X).sample((), made.learner.noise(BATCH))
    assert not torch.equal(greedy, drawn)
    logits = made.model.prior.network.layers(one_hot(drawn, K).double().mT.unflatten(-1, (4, 4)))
    wanted = binary_cross_entropy(pixels(made, greedy), X) + cross_entropy(logits, drawn.unflatten(-1, (4, 4)))
    torch.testing.assert_close(loss.value, wanted)
    theta = list(made.model.parameters())
    torch.testing.assert_close(gradients(loss.value, theta), gradients(wanted, theta))


@pytest.mark.parametrize("budget", ["cpu", "full"])
def test_training_begins_with_399_m_steps_and_alternates_every_400(budget):
    """The published loop counts its steps from one, and makes an M-step where the step is below 400 modulo 800."""
    schedule = instantiate(settings.row("mnist", "faithful_greedy", budget, 0).learner.schedule)
    ours = ["".join(schedule.updates(step)) for step in range(1700)]
    assert ours == ["M" if step % 800 < 400 else "E" for step in range(1, 1701)]


def test_rates(tmp_path):
    """log Z at 0.1 and theta at 2e-4 for ever; the posterior's 2e-4 falls to 5e-5 late in the run."""
    made = built(tmp_path, "faithful_prior", "budget.updates=100")
    named = {group["name"]: group for group in made.descent.optimizer.param_groups}
    assert all(group["weight_decay"] == 0 for group in named.values())  # AdamW without decay is Adam
    rates = []
    for _ in range(100):
        rates.append({name: group["lr"] for name, group in named.items()})
        made.descent.optimizer.step()
        made.descent.scheduler.step()
    assert rates[0] == pytest.approx({"theta": 2e-4, "phi": 2e-4, "log_z": 0.1})
    assert rates[-1] == pytest.approx({"theta": 2e-4, "phi": 5e-5, "log_z": 0.1})
    assert named["log_z"]["params"] == [made.learner.objective.log_z.log_z]


@pytest.mark.parametrize("codes", [4, 8, 10])
@pytest.mark.parametrize(("row", "epochs", "reduced"), [("gflownet_em", 500, 400), ("greedy", 250, 180), ("prior", 400, 300), ("vq", (51, 81), (25, 50))])
def test_the_full_budget_has_the_published_length(row, epochs, reduced, codes):
    """468 batches of 128 images an epoch; the encoder's rate falls late, the VQ-VAE's later where K = 10."""
    if row == "vq":
        epochs, reduced = epochs[codes == 10], reduced[codes == 10]
    config = settings.row({4: "mnist_k4", 8: "mnist", 10: "mnist_k10"}[codes], f"faithful_{row}", "full", 0)
    assert config.codes == codes
    assert config.batches == 468 * epochs
    assert config.schedule.phi.at * epochs == pytest.approx(reduced, rel=1e-5)
    assert config.schedule.phi.at * config.batches <= 468 * reduced + 1e-6  # at the very batch, not the next
    assert (config.channels, config.budget.size, config.budget.samples, config.budget.test) == (128, 128, 5000, 10_000)


@pytest.mark.parametrize("budget", ["cpu", "full"])
@pytest.mark.parametrize("kind", ["gflownet_em", "greedy", "prior"])
def test_partners_make_equal_updates(budget, kind):
    """A faithful row with alternating updates makes one of theta or of phi on a batch, a modern one both."""
    faithful, modern = (settings.row("mnist", f"{preset}_{kind}", budget, 0) for preset in ("faithful", "modern"))
    assert faithful.batches == 2 * modern.batches


def test_the_quantiser_s_loss(tmp_path):
    """-log p(x|z) / 784 + 0.25 mean (h - e)^2, with BatchNorm in both networks."""
    made = built(tmp_path, "faithful_vq")
    (loss,) = made.learner.losses(made.model, BATCH)
    made.model.train()
    h = made.learner.posterior.encoder(X)
    z = (h - made.model.codebook.weight.squeeze(-1)).square().argmin(-1)
    e = made.model.codebook.weight[z]
    x = made.model.decoder(h + (e - h).detach()).sigmoid()
    wanted = binary_cross_entropy(x, X) + 0.25 * mse_loss(h, e.detach())
    torch.testing.assert_close(loss.value, wanted)
    everything = [*made.model.decoder.parameters(), *made.learner.parameters()]
    torch.testing.assert_close(gradients(loss.value, everything), gradients(wanted, everything))
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in part.modules()) for part in (made.model.decoder, made.learner.posterior)]
    assert norms == [8, 7]


PLAIN = tuple(f"{part}.norm._target_=torch.nn.BatchNorm2d" for part in ("model.decoder", "posterior.encoder"))


def quantised(_, root: str, *overrides: str) -> dict[str, Tensor]:
    """Parameters, running moments and codebook after three steps on batches of five, which two processes share unequally."""
    made = built(Path(root), "faithful_vq", *overrides)
    batches = [BATCH._replace(x=x, index=index) for x, index in ((X[i : i + 5], BATCH.index[i : i + 5]) for i in (0, 1, 0))]
    list(fit(made.model, made.learner, batches, made.descent.optimizer))
    return state(made.model, made.learner)


def test_the_quantiser_s_norms_are_torch_s_in_one_process(tmp_path):
    assert_same(quantised(None, str(tmp_path)), quantised(None, str(tmp_path), *PLAIN))


def test_two_processes_make_the_quantiser_of_one(tmp_path, monkeypatch):
    alone = quantised(None, str(tmp_path))
    monkeypatch.setattr(small_mnist, "write", lambda folder: folder)  # both processes read what lies there, and neither writes it anew
    name = f"{__name__}:quantised/{tmp_path}"
    first, second = outcomes(tmp_path, [name])[name]
    assert isinstance(first, dict), first
    assert_same(first, second)
    assert_same(first, alone, 1e-9)


def test_the_quantiser_s_codebook():
    """Counts begin at nought, sums at the vectors; counts are smoothed by 1e-5; three steps."""
    torch.manual_seed(0)
    codebook = PublishedEMACodebook(4, 2).double()
    weight, counts = codebook.weight.clone(), torch.zeros(4).double()
    sums = weight.clone()
    assert weight.abs().max() <= 1 / 4
    for step in range(3):
        h = torch.randn(10, 5, 2, dtype=torch.float64)
        z = torch.randint(0, 3, (10, 5))  # code 3 is never used
        codebook.update(codebook.statistics(h, z, torch.arange(10)), 0, step)
        hot = one_hot(z.flatten(), 4).double()
        counts = 0.999 * counts + 0.001 * hot.sum(0)
        n = counts.sum()
        counts = (counts + SMOOTHING) / (n + 4 * SMOOTHING) * n
        sums = 0.999 * sums + 0.001 * hot.T @ h.flatten(0, 1)
        weight = sums / counts.unsqueeze(-1)
        torch.testing.assert_close(codebook.weight, weight)


def test_parameter_counts_are_those_of_the_published_networks(tmp_path):
    made = built(tmp_path, "faithful_prior", "budget.channels=128")
    counts = [sum(p.numel() for p in part.parameters()) for part in (made.learner, made.model.decoder, made.model.prior, made.model.codebook)]
    assert counts == [944_769, 999_681, 1_042_440, K]
