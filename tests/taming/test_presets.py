"""The presets: what each says it is, from its own losses; each trains on 32x32 images, and so does GFlowNet-EM on the same model."""

import math

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from experiments import settings
from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.space import Sphere
from latentcomp.codebook.start import KMeans
from latentcomp.energies import PerceptualEnergy
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.exact import exact
from latentcomp.learners.learner import trainable
from latentcomp.likelihoods import Gaussian, Laplace
from latentcomp.nn.critic import PatchCritic
from latentcomp.nn.lpips import DropoutLPIPS
from latentcomp.nn.unet import Attention, Ladder, Residual
from latentcomp.phases.behaviour import Exploring
from latentcomp.phases.critic import Critic
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.schedule import OnlyE
from latentcomp.posteriors.exact import Exact
from latentcomp.taming.presets import Preset, Size, backbone, gflownet_em, modern, paper, taming
from latentcomp.train import fit
from tests.nn.vgg import vgg

SMALL = Size((3, 32, 32), codes=16, width=4, features=32, channels=32, multipliers=(1, 1, 1), blocks=1, critic=8)
PRESETS = {"paper": paper, "taming": taming, "modern": modern}
X = 2 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1


class Blurred(nn.Module):
    """A distance that is quick: squared differences of 4x4 means."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One number for each y."""
        pooled = (nn.functional.avg_pool2d(t.flatten(0, -4), 4).unflatten(0, t.shape[:-3]) for t in (x, y))
        return torch.stack([*torch.broadcast_tensors(*pooled)]).diff(dim=0)[0].square().mean((-3, -2, -1))


def made(name: str, start: int = 0) -> Preset:
    """A small preset."""
    torch.manual_seed(0)
    preset = PRESETS[name](SMALL, Blurred(), start)
    return Preset(preset.model.double().train(), preset.learner.double().train())


def attentions(module: nn.Module) -> int:
    return sum(isinstance(m, Attention) for m in module.modules())


def residuals(module: nn.Module) -> int:
    return sum(isinstance(m, Residual) for m in module.modules())


@pytest.mark.parametrize(("name", "attention", "encoder", "decoder"), [("paper", 2, 5, 5), ("modern", 2, 5, 5), ("taming", 5, 5, 8)])
def test_the_networks_attend_where_the_table_says(name, attention, encoder, decoder):
    """Both halves: one in each middle; as published one more behind each block of the last level, of which the decoder has two."""
    model, learner = made(name)
    networks = (learner.posterior.encoder.encoder, model.decoder.decoder)
    assert sum(map(attentions, networks)) == attention
    assert tuple(map(residuals, networks)) == (encoder, decoder)


@pytest.mark.parametrize("name", PRESETS)
def test_the_losses_are_those_of_the_table_written_out(name):
    """Generator and critic, from h, e, x_hat and logits on, sharing nothing with the learner but its networks."""
    model, learner = made(name)
    x = X.double()
    losses = learner.losses(model, Batch(x))
    loss = next(losses)
    h = model.codebook.project(learner.posterior.encoder(x))
    e = model.codebook(learner.posterior(model, x).mode)
    x_hat = model.decoder(h + (e - h).detach())
    reconstruction = Blurred()(x, x_hat).mean() + (0 if name == "paper" else (x - x_hat).abs().mean())
    codebook, commitment = {"paper": (1, 1), "taming": (0.25, 1), "modern": (1, 0.25)}[name]
    quantisation = codebook * (h.detach() - e).square().mean() + commitment * (h - e.detach()).square().mean()
    network, last = learner.critic.network, model.decoder.decoder.last.weight
    logits = network(x_hat)
    side = (1 - logits.sigmoid()).log().mean() if name == "paper" else -logits.mean()
    a, b = (torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (reconstruction, side))
    weight = a / (b + 1e-6) if name == "paper" else 0.8 * (a / (b + 1e-4)).clamp(0, 1e4)
    ramp = 1.0
    total = reconstruction + quantisation + ramp * weight * side
    torch.testing.assert_close(loss.value - 64 * math.log(16), total)
    parameters = [*model.parameters(), *learner.posterior.parameters()]
    for given, wanted in zip(torch.autograd.grad(loss.value, parameters), torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(given, wanted)
    judged = next(losses)
    real, fake = network(x), network(x_hat.detach())
    hinge = ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2
    held = 0.001 * (real.square().mean() + fake.square().mean()) if name == "modern" else 0
    logistic = -weight * (real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    torch.testing.assert_close(judged.value, logistic if name == "paper" else hinge + held)


@pytest.mark.parametrize("name", PRESETS)
def test_before_the_start_there_is_no_critic_but_for_a_warm_start(name):
    model, learner = made(name, start=8)
    terms = []
    for step in (0, 5, 6, 8):
        learner.step = step
        terms.append([(loss.term, float(loss.metrics.get("ramp", 0))) for loss in learner.losses(model, Batch(X.double()))])
    alone, warm = [("VQ", 0)], [("VQ", 0), ("critic", 0)]
    share = 0.25 if name == "modern" else 1.0
    assert terms == [alone, alone, warm if name == "modern" else alone, [("VQ", share), ("critic", 0)]]


@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_and_its_weights_are_averaged(name):
    torch.manual_seed(0)
    model, learner = PRESETS[name](SMALL, Blurred(), 1)
    optimizer, average = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-3, (0.5, 0.9)), WeightAverage(0.5, model)
    before = [p.detach().clone() for p in trainable(model, learner)]
    for _ in fit(model, learner, [Batch(X)] * 3, optimizer):
        average.update()
    assert all(not torch.equal(a, b) for a, b in zip(before, trainable(model, learner), strict=True))
    last = model.decoder.last_weight.detach().clone()
    with average.applied():
        assert not torch.equal(model.decoder.last_weight, last)
        model.decode(model.codebook(learner.posterior(model, X).mode)).log_prob(X)
    assert torch.equal(model.decoder.last_weight, last)


def test_the_modern_codebook_is_that_of_the_modern_configuration():
    """One function makes both: running means on the sphere from a k-means start, with restart."""
    ours, theirs = made("modern").model.codebook, instantiate(settings.row("collapse", "modern", "smoke", 0, ("codes=16",)).model.codebook)
    for codebook in (ours, theirs):
        assert isinstance(codebook, EMACodebook)
        assert isinstance(codebook.space, Sphere)
        assert isinstance(codebook.start, KMeans)
        assert codebook.restart > 0
    assert (ours.decay, ours.start.iterations) == (theirs.decay, theirs.start.iterations)
    with torch.device("meta"):
        assert modern(distance=Blurred()).model.codebook.width == 8, "few dimensions, unless a size says otherwise"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_the_warm_start_s_terms_are_weighed_as_means_beside_an_energy(temperature):
    """(E + mean |sg h - e|^2 + 0.25 mean |h - sg e|^2) / T: as in the other presets, at any temperature."""
    torch.manual_seed(0)
    model, learner = gflownet_em(SMALL, PerceptualEnergy(Blurred(), temperature), warm=1)
    model.double(), learner.double()
    x, quantiser = X.double(), learner.learner.quantiser
    loss = next(learner.losses(model, Batch(x)))
    q = quantiser.posterior(model, x)
    e = model.codebook(q.mode)
    x_hat = model.decoder(e)
    energy = Blurred()(x, x_hat).mean() + (x - x_hat).abs().mean()
    total = (energy + 1.25 * (q.h - e).square().mean()) / temperature
    torch.testing.assert_close(loss.value - 64 * math.log(16), total)


def test_the_published_size_and_first_codes():
    with torch.device("meta"):
        model, encoder = backbone(Size(), Ladder(), Laplace())
    assert sum(p.numel() for p in [*model.parameters(), *encoder.parameters()]) == 72_141_699 + 1  # and the Laplace scale, which does not learn
    model, _ = backbone(SMALL, Ladder(32, (1, 1, 1), 1, ()), Laplace())
    weight = model.codebook.weight.detach()
    assert 0.8 / 16 < float(weight.abs().max()) <= 1 / 16


def test_lpips_is_read_from_a_file_and_drops_out_as_published(tmp_path):
    pytest.importorskip("lpips")
    torch.save(vgg(), tmp_path / "vgg16.pth")
    model, learner = taming(SMALL, tmp_path / "vgg16.pth", 0)
    assert isinstance(model.likelihood.distance, DropoutLPIPS)

    def perceptual(dropping: bool, step: int) -> float:
        model.likelihood.train(dropping)
        learner.step = step
        return float(next(learner.losses(model, Batch(X[:2]))).metrics["perceptual"])

    runs = [perceptual(True, 0), perceptual(True, 0), perceptual(True, 1), perceptual(False, 0)]
    assert runs[0] == runs[1]
    assert len(set(runs)) == 3
    assert not any(p.requires_grad for p in model.likelihood.parameters())
    for preset in (paper, modern):
        with pytest.raises(TypeError, match="this preset's distance is a LPIPS, not a DropoutLPIPS"):
            preset(SMALL, model.likelihood.distance)


def test_an_image_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"3 levels make a stride of 4, which must divide the image; got 32 x 30"):
        modern(Size((3, 32, 30), multipliers=(1, 1, 1)), Blurred())


LIKELIHOODS = {
    "laplace": lambda: Laplace(0.3, learned=True),
    "gaussian": lambda: Gaussian(0.3, learned=True),
    "energy": lambda: PerceptualEnergy(Blurred(), 0.01),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gflownet_em_trains_the_same_model(name):
    """32x32 images, 8x8 codes: warm start, E-step, sleep where x has a distribution, M-step, critic."""
    torch.manual_seed(0)
    critic = Critic(PatchCritic(3, 8), "vanilla")  # of a hinge whose logits all lie within the margin, the last bias would hear nothing
    model, learner = gflownet_em(SMALL, LIKELIHOODS[name](), critic, warm=1)
    optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-3)
    before = {n: p.detach().clone() for m in (model, learner) for n, p in m.named_parameters() if p.requires_grad}
    steps = list(fit(model, learner, [Batch(X)] * 2, optimizer))
    assert {"distillation", "m_loss", "lambda"} <= steps[0].keys()
    assert {"e_loss", "m_loss", "lambda", "critic"} <= steps[1].keys()
    assert ("sleep" in steps[1]) == (name != "energy")
    still = [n for m in (model, learner) for n, p in m.named_parameters() if p.requires_grad and torch.equal(p, before[n])]
    assert not still
    z = learner.posterior(model, X).sample((2,))
    assert z.shape == (2, 4, 64)
    assert model.decode(model.codebook(z)).mean.isfinite().all()


ENUMERABLE = Size((3, 4, 4), codes=4, width=4, features=32, channels=32, multipliers=(1, 1), blocks=1)


def blocks(generator: torch.Generator, rows: int = 16) -> torch.Tensor:
    """4x4 colour images of four blocks, in noise."""
    x = (2 * torch.rand(rows, 3, 2, 2, generator=generator).round() - 1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return x + 0.3 * torch.randn(x.shape, generator=generator)


@pytest.mark.usefixtures("unchecked")
def test_its_divergence_from_the_exact_posterior_is_the_sum_over_all_codes():
    """2x2 codes of K = 4: 256 sequences, by ``evaluate.exact`` and by a loop."""
    torch.manual_seed(0)
    model, learner = gflownet_em(ENUMERABLE, Laplace(0.3, learned=True), warm=0)
    nn.init.normal_(model.codebook.weight)  # from codes that differ
    model.double()
    learner.double()
    x = blocks(torch.Generator().manual_seed(1), 3).double()
    given = exact(model, learner.posterior, x).kl_q_p.mean()
    assert given > 0.1
    torch.testing.assert_close(given, generalised_kl(model, learner, x))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["laplace", "gaussian", "energy"])
def test_the_e_step_nears_the_exact_posterior_of_a_trained_model(name):
    """Warm start and GFlowNet-EM on images of blocks in noise; then E-steps alone, towards a posterior that stands still and is enumerated."""
    torch.manual_seed(0)
    likelihood = PerceptualEnergy(Blurred(), 0.05) if name == "energy" else {"laplace": Laplace, "gaussian": Gaussian}[name](1.0, learned=True)
    model, learner = gflownet_em(ENUMERABLE, likelihood, warm=80)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-3)
    list(fit(model, learner, [Batch(blocks(generator)) for _ in range(110)], optimizer))
    x, em = blocks(generator), learner.learner.learner
    log_p = Exact()(model, x).table()
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    assert entropy < math.log(256) - 0.5, "codes that all mean the same have a posterior that is easy to learn"
    start = float(generalised_kl(model, learner, x))
    em.schedule, em.behaviour = OnlyE(), Exploring(8, 0.02)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in fit(model, em, [Batch(x)] * 800, optimizer):
        rate.step()
    end = float(generalised_kl(model, learner, x))
    print(f"{name}: exact posterior of {entropy:.2f} nats, mean KL(q || p(z|x)) from {start:.3f} to {end:.4f} nats")
    assert end < 0.1 * start


def generalised_kl(model: nn.Module, learner: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Mean KL from q to p(z) exp(-E/T) or p(z) p(x|z), normalised over all codes by a loop that shares nothing with ``enumeration``."""
    with torch.no_grad():
        codes = torch.cartesian_prod(*[torch.arange(4)] * 4)
        log_joint = torch.stack([model.log_likelihood(x, z.expand(len(x), -1)) for z in codes], 1).double()
        log_q = torch.stack([learner.posterior(model, x).log_prob(z.expand(len(x), -1)) for z in codes], 1).double()
    return objectives.kl(log_q, log_joint.log_softmax(-1)).mean()


def test_gflownet_em_s_objective_is_the_log_variance():
    _, learner = gflownet_em(SMALL, warm=0)
    assert isinstance(learner.learner.objective, LogVariance)
