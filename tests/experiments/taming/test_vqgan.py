"""First stages put together: published sizes, weights in the likelihood's own units, two levels, and maps."""

import math

import pytest
import torch
from torch import nn

from experiments import settings
from experiments.making import made
from experiments.taming.maps import OneHot, depth_maps, label_maps
from experiments.taming.two_levels import TwoLevelDecoder, TwoLevels
from experiments.taming.vqgan import Flat, Nearest, Relaxed, unit, vqgan
from latentcomp.batch import Batch
from latentcomp.codebook import FSQ, LFQ, Codebook, EMACodebook, ResidualVQ
from latentcomp.energies import PerceptualEnergy
from latentcomp.learners.vqgan import VQGAN
from latentcomp.likelihoods import Laplace
from latentcomp.nn.critic import PatchCritic
from latentcomp.phases.anneal import Constant
from latentcomp.phases.critic import Critic
from latentcomp.taming.presets import Size

SMALL = Size((1, 16, 16), codes=8, width=4, features=8, channels=8, multipliers=(1, 1, 2), blocks=1, group=4)
X = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def built(codebook=None, quantiser=None, likelihood=None, networks=None, critic=None):
    torch.manual_seed(0)
    return vqgan(SMALL, codebook or Codebook(8, 4), quantiser or Nearest(), likelihood or Laplace(0.1), networks, critic)


def test_weights_are_those_beside_a_mean_over_pixels():
    """The loss of a Laplace likelihood, divided by what one unit of the mean is worth, is that of the same energy but for its normaliser."""
    scale, energy = 0.1, built(likelihood=PerceptualEnergy(temperature=1.0))
    nats = built(likelihood=Laplace(scale))
    pixels = 16 * 16
    assert unit(Laplace(scale), SMALL, 16) == (pytest.approx(pixels / scale / 64), pytest.approx(pixels / scale))
    assert unit(energy.model.likelihood, SMALL, 16) == (1 / 64, 1.0)
    (a,), (b,) = (list(preset.learner.losses(preset.model, Batch(X))) for preset in (energy, nats))
    free = 16 * math.log(8)  # -log p(z) of the uniform prior, in both
    normaliser = pixels * math.log(2 * scale)
    a, b = (float(loss.value.detach()) - free for loss in (a, b))
    assert (b - normaliser) / (pixels / scale) == pytest.approx(a, rel=1e-4)


def test_an_entropy_term_and_the_published_legacy_weights():
    learner = built(LFQ(16), Nearest(0.0, 0.25, entropy=0.1)).learner
    assert learner.entropy.weight == pytest.approx(0.1 * 256 / 0.1)
    legacy = built(likelihood=PerceptualEnergy(temperature=1.0), quantiser=Nearest(0.25, 1.0)).learner
    assert (legacy.codebook_weight, legacy.commitment_weight) == (0.25 / 64, 1 / 64)


def test_the_gumbel_row_is_the_published_loss():
    """E + w mean over sites of sum_k q log(q K), the code itself decoded: the learner's loss at temperature w / N, times that."""
    weight = 0.3
    model, learner = built(quantiser=Relaxed(Constant(0.7)), likelihood=PerceptualEnergy(temperature=weight / 16))
    (loss,) = learner.losses(model, Batch(X))
    with torch.no_grad():
        q = learner.posterior(model, X).conditionals(torch.zeros(6, 16, dtype=torch.long)).softmax(-1)
        kl = (q * (q * 8).log()).sum(-1).mean()
        energy = (X - loss.output).abs().mean()
    assert float(loss.value.detach()) * weight / 16 == pytest.approx(float(energy + weight * kl), rel=1e-5)
    y = learner.relaxation(learner.posterior(model, X), 0, learner.noise(Batch(X)))
    assert ((y.detach() - y.detach().round()).abs() < 1e-6).all(), "hard"
    row = settings.row("taming_reconstruction", "gumbel", "full", 0, ("data.root=FOLDER",))
    assert row.temperature * 32 * 32 == pytest.approx(1e-8)
    temperature = made(row.quantiser).temperature
    assert temperature(0) == pytest.approx(0.9)
    assert temperature(1_000_001) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("codebook", "quantiser", "networks", "sites"),
    [
        (lambda: Codebook(8, 4), Relaxed(), None, 16),
        (lambda: FSQ([3, 3, 3, 3]), Nearest(0.0, 0.0), None, 16),
        (lambda: ResidualVQ([EMACodebook(8, 4), EMACodebook(8, 4)]), Nearest(), None, 32),
        (lambda: Codebook(8, 4), Nearest(), TwoLevels(), 20),
    ],
    ids=["gumbel", "fsq", "residual", "two levels"],
)
def test_every_kind_learns_all_that_it_has(codebook, quantiser, networks, sites):
    model, learner = built(codebook(), quantiser, networks=networks)
    assert len(model.cardinalities) == sites
    (loss,) = learner.losses(model, Batch(X))
    loss.value.backward()
    still = [name for name, parameter in [*model.named_parameters(), *learner.named_parameters()] if parameter.requires_grad and parameter.grad is None]
    assert not still
    assert learner.posterior(model, X).mode.shape == (6, sites)


def test_a_critic_joins_and_finds_the_last_layer_of_both_networks():
    for networks in (None, TwoLevels()):
        model, learner = built(networks=networks, critic=Critic(PatchCritic(1, 4, 1)))
        assert isinstance(learner, VQGAN)
        terms = [loss.term for loss in learner.losses(model, Batch(X))]
        assert terms == ["VQ", "critic"]
        assert model.decoder.last_weight is model.decoder.decoder.last.weight


def test_two_levels_come_coarse_first_and_both_reach_the_picture():
    model, learner = built(networks=TwoLevels())
    decoder = model.decoder
    assert isinstance(decoder, TwoLevelDecoder)
    z = learner.posterior(model, X[:1]).mode
    before = decoder(model.codebook(z))
    for site in (0, 4):  # the first of each grid: the upper left corner
        other = z.clone()
        other[0, site] = (z[0, site] + 1) % 8
        moved = (decoder(model.codebook(other)) - before).abs().amax((0, 1))
        assert moved[:4, :4].max() > 0
    fine = learner.posterior.encoder(X).shape
    assert fine == (6, 4 + 16, 4)
    with pytest.raises(ValueError, match="even sides"):
        TwoLevels()(Size((1, 12, 12), multipliers=(1, 1, 1), channels=8, group=4))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="FSQ has codes of D=3 dimensions, and size.width=4: set width=3"):
        built(FSQ([3, 3, 3]))


def test_the_published_networks_have_the_published_size():
    with torch.device("meta"):
        size = Size()
        networks = Flat(attention=True, extra=1)(size)
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    assert count(networks.encoder) + count(networks.decoder) + size.codes * size.width == 72_141_699
    assert networks.vectors == 256


@pytest.mark.parametrize("classes", [3, 5])
def test_label_maps_are_learned(classes):
    """A minute network tells two maps apart that differ in one half: after some steps their codes give them back."""
    torch.manual_seed(0)
    model, learner = label_maps(SMALL, classes)
    c = torch.zeros(2, 1, 16, 16, dtype=torch.long)
    c[0, :, :8], c[1, :, 8:] = 1, classes - 1
    optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-2)
    for _ in range(40):
        (loss,) = learner.losses(model, Batch(c))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        learner.update(model, dict(loss.statistics))
    made = model.decode(model.codebook(learner.posterior(model, c).mode)).mean
    assert (made == c).float().mean() > 0.9


def test_one_hot_maps_and_what_is_no_class():
    c = torch.randint(3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(OneHot(3)(c).argmax(1, keepdim=True), c)
    assert OneHot(3)(c).sum(1).eq(1).all()
    with pytest.raises(ValueError, match=r"classes 0\.\.1; got values from 0 to 2.*task\.classes"):
        OneHot(2)(c.clamp_min(0).index_fill(0, torch.tensor([0]), 2))


def test_depth_maps_are_grey():
    model, learner = depth_maps(SMALL)
    assert model.image_shape == (1, 16, 16)
    (loss,) = learner.losses(model, Batch(X))
    assert loss.value.isfinite()
    assert isinstance(learner.posterior.encoder, nn.Sequential)
