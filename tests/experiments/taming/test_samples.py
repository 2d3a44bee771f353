"""Samples as the tables draw them: cut off, mixed, rejected; each a function of its number, and distributed as it should be."""

import math

import pytest
import torch
from torch import nn

from experiments.taming import judges, sets
from experiments.taming.coded import Coded, Coder
from experiments.taming.priors import Transformer
from experiments.taming.samples import Cut, Drawn, HeldOut
from experiments.taming.vqgan import Nearest, Preset, vqgan
from latentcomp.codebook import Codebook
from latentcomp.codes.truncated import top_k_logits
from latentcomp.conditions import Encoded, Labels
from latentcomp.engine import Engine
from latentcomp.evaluate.realism import Realism
from latentcomp.likelihoods import Laplace
from latentcomp.model import with_prior
from latentcomp.taming.presets import Size

K, GRID = 5, (2, 2)


def first_stage() -> Preset:
    torch.manual_seed(0)
    size = Size((1, 8, 8), codes=K, width=4, features=8, channels=8, multipliers=(1, 1, 1), blocks=1, group=4)
    made = vqgan(size, Codebook(K, 4), Nearest(), Laplace(0.1))
    made.model.eval()
    made.learner.eval()
    return made


def drawn(condition: str | None = None, seed: int = 0, size: int = 7, rejector=None) -> Drawn:
    data = sets.digits(condition, keep=[0, 1, 2], side=8, train=40)
    first = first_stage()
    stage = {None: None, "class": Labels(3), "labels": Encoded(first.model, first.learner.posterior)}[condition]
    coded = Coded(data, Coder(first, stage if condition != "labels" else OneChannel(stage), Engine(None)))
    torch.manual_seed(1)
    prior = Transformer(1, 16, 2)(coded.sites(GRID, 3 if condition == "class" else K))
    for parameter in prior.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return Drawn(with_prior(first.model, prior).eval(), coded, 3 if condition == "class" else 0, rejector, seed, size)


class OneChannel(nn.Module):
    """Label maps through the pictures' first stage."""

    def __init__(self, stage: Encoded) -> None:
        super().__init__()
        self.stage = stage

    def encode(self, c):
        return self.stage.encode(c.float() - 1)


@torch.no_grad()
def codes_of(on: Drawn, cut: Cut, number: int) -> torch.Tensor:
    """The codes behind the pictures."""
    pictures, seen = [], {}
    decode = type(on).decode
    try:
        type(on).decode = lambda self, z: seen.setdefault(len(seen), z) * 0.0
        list(cut(on, number))
    finally:
        type(on).decode = decode
    assert not pictures
    return torch.cat([*seen.values()])


@pytest.mark.parametrize("condition", [None, "class", "labels"])
@pytest.mark.parametrize("top_k", [None, 2, [1, 3, 900]])
def test_as_many_as_asked_for_whatever_the_batches(condition, top_k):
    cut = Cut(top_k)
    a, b = (codes_of(drawn(condition, size=size), cut, 20) for size in (7, 20))
    assert a.shape == (20, 4)
    assert torch.equal(a, b)
    assert not torch.equal(a, codes_of(drawn(condition, seed=1), cut, 20)) or top_k == 1


@torch.no_grad()
def test_one_code_is_the_greedy_one_and_mixed_cuts_take_turns():
    on = drawn()
    greedy = on.model.prior().mode[0]
    z = codes_of(on, Cut([1, None]), 30)
    assert (z[:15] == greedy).all()
    assert not (z[15:] == greedy).all()


@torch.no_grad()
def test_first_codes_follow_the_cut_off_conditional():
    """The first code of 3,000 samples against the two most probable of the conditional: within five standard errors, error rate 6e-7."""
    on = drawn(size=3000)
    logits = on.model.prior().conditionals(torch.zeros(1, 4, dtype=torch.long))[0, 0]
    expected = top_k_logits(logits, 2).softmax(-1)
    z = codes_of(on, Cut(2), 3000)[:, 0]
    share = z.bincount(minlength=K) / 3000
    assert (share[expected == 0] == 0).all()
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / 3000).sqrt() + 1e-6).all()


@torch.no_grad()
def test_classes_take_turns_and_maps_are_those_of_the_test_pictures():
    on = drawn("class")
    z = codes_of(on, Cut(1), 6)
    assert torch.equal(z[:3], z[3:]), "greedy codes of the same three classes"
    assert torch.equal(z[:3], torch.stack([on.model.prior(torch.tensor([[label]])).mode[0] for label in range(3)]))
    on = drawn("labels")
    held = on.data.conditions("test")
    assert torch.equal(codes_of(on, Cut(1), 5), torch.cat([on.model.prior(r[None]).mode for r in held[:5]]))


class Sure(nn.Module):
    """A classifier that is surest of class 0 where the picture is bright."""

    def forward(self, x):
        bright = x.mean((1, 2, 3))
        return torch.stack([bright, -bright, torch.zeros_like(bright)], 1) * 10


@torch.no_grad()
def test_rejection_keeps_what_the_classifier_is_surest_of():
    on = drawn("class", rejector=Sure(), size=50)
    kept = torch.cat(list(Cut(None, acceptance=0.1)(on, 30)))
    every = torch.cat(list(Cut(None)(on, 30)))
    assert kept.shape == every.shape == (30, 1, 8, 8)
    assert kept[:10].mean() > every[0::3].mean(), "bright ones of class 0"
    assert kept[10:20].mean() < every[1::3].mean(), "dark ones of class 1"
    with pytest.raises(ValueError, match=r"acceptance=0\.1.*sampling\.acceptance=1"):
        list(Cut(acceptance=0.1)(drawn(), 3))
    with pytest.raises(ValueError, match="none was given: pass Drawn a rejector"):
        list(Cut(acceptance=0.1)(drawn("class"), 3))


def test_held_out_pictures_stand_for_samples():
    on = drawn()
    pictures = torch.cat(list(HeldOut("test")(on, 20)))
    assert torch.equal(pictures, on.data.data.parts["test"].x[:20])


def test_a_small_classifier_knows_the_digits_and_judges_them_alike():
    """Two seeds of it classify held-out digits; FID of pictures with themselves is nought, and IS lies between 1 and the number of classes."""
    data = sets.digits(side=32)
    for seed in (1, 2):
        network = judges.trained(data, seed)
        assert (network(data.parts["test"].x).argmax(-1) == data.labels["test"]).float().mean() > 0.9
    judge = judges.classifier(data, None)
    distance = Realism(judge, ["fid", "is"])
    for real in (True, False):
        distance.update(data.parts["test"].x, real)
    found = distance.measures()
    assert found["fid_classifier"].value == pytest.approx(0, abs=1e-3)
    assert 5 < found["is_classifier"].value < 10
    assert math.isfinite(float(judges.rejector(data)(data.parts["test"].x[:2]).sum()))


def test_judges_say_what_they_want():
    bare = sets.Standin(sets.digits(side=8, train=9).parts)
    with pytest.raises(SystemExit, match=r"these pictures have none: judge by budget\.judge\._target_=experiments\.taming\.judges\.vgg16"):
        judges.classifier(bare, None)
    with pytest.raises(SystemExit, match="weights=FOLDER, the folder of vgg16_features.safetensors"):
        judges.vgg16(bare, None)


def test_inception_is_looked_for_in_the_folder_of_weights_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(judges, "Inception", asked.append)
    judges.inception(None, str(tmp_path))
    (tmp_path / judges.INCEPTION.rpartition("/")[2]).touch()
    judges.inception(None, str(tmp_path))
    judges.inception(None, None)
    assert asked == [None, tmp_path / judges.INCEPTION.rpartition("/")[2], None]
