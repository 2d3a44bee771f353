"""Own images, end to end: both stages on a folder of drawn pictures, resumed, stopped early, and with every part of what they leave."""

import csv
import json
import sys
from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from experiments import settings
from experiments.execute import plain
from experiments.own_images import first_stage, judges, priors, second_stage
from experiments.own_images import plain as plain_preset
from experiments.own_images.board import Board, grid
from experiments.own_images.run import Means, Run
from experiments.own_images.stopping import Stopping
from latentcomp.nn.unet import Norm
from latentcomp.pretrained import from_pretrained, save_pretrained
from latentcomp.taming import presets
from tests.pictures import folder, truncated

SMALL = ("crop=16", "codes=32", "features=32", "multipliers=[1,1,1]", "data.view.crops=4", "data.parts.test=0.2", "budget.size=8")
TINY = ("second.width=16", "second.layers=1", "second.heads=2", "budget.size=8")


def config(stage, *overrides):
    return settings.composed([f"experiment=images/{stage}", "budget=images/smoke", *overrides])


def values(records):
    return {record["metric"]: record["value"] for record in records}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for name in ("discs", "slopes"):
        folder(root / name, 8)
    truncated(root / "discs" / "03.png")
    return root


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A first stage that has run."""
    path = tmp_path_factory.mktemp("first")
    options = config("first_stage", *SMALL, f"data.root={root}", "data.condition=class", "budget.updates=12", "budget.every=4")
    return path, *first_stage.execute(options, "row", place=path / "last.pt")


def test_the_first_stage_learns_and_leaves_what_the_second_needs(finished, root):
    path, records, pictures = finished
    looks = pictures["curve"]
    assert [look["step"] for look in looks] == [4, 8, 12]
    assert looks[-1]["m_loss"] < looks[0]["m_loss"]
    found = values(records)
    assert {"psnr", "ssim", "l1", "code_usage", "code_perplexity", "bicubic_psnr", "bicubic_l1", "seconds"} <= found.keys()
    assert 1 / 32 <= found["code_usage"] <= 1
    json.dumps(records, allow_nan=False)
    assert {"first_stage.pt", "last.pt", "config.json", "health.csv", "reconstructions.png", "whole_0.png"} <= {p.name for p in path.iterdir()}
    rows = list(csv.DictReader((path / "health.csv").read_text().splitlines()))
    assert [float(row["l1"]) for row in rows] == [look["l1"] for look in looks]
    best = min(looks, key=lambda look: look["l1"])
    assert pictures["best_step"] == best["step"]
    with Image.open(path / "reconstructions.png") as picture:
        assert picture.height == 3 * (16 * 6 + 2)  # as large as 96 pixels a side, and a line of one pixel around
    assert pictures["reconstructions"].shape == pictures["images"].shape


def test_the_second_stage_learns_samples_and_shows_neighbours(finished, tmp_path, capsys):
    path, *_ = finished
    overrides = (*TINY, f"first={path}", "budget.updates=12", "budget.every=6", "patience=0", "optimizer.lr=0.01")
    records, pictures = second_stage.execute(config("second_stage", *overrides), "row", place=tmp_path / "last.pt")
    found, looks = values(records), pictures["curve"]
    assert looks[-1]["train_nats_per_token"] < looks[0]["train_nats_per_token"]
    assert found["nats"] == pytest.approx(16 * found["nats_per_token"])
    assert found["bits_per_dimension"] == pytest.approx(found["nats"] / (3 * 16 * 16 * torch.tensor(2.0).log().item()))
    assert found["nats_per_token"] < torch.tensor(32.0).log()  # a uniform prior's
    assert found["novelty"] > 0
    assert {"second_stage.pt", "samples.png", "neighbours.png", "health.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert pictures["samples"].shape == (16, 3, 16, 16)
    printed = capsys.readouterr().out
    assert "nats/token" in printed
    assert "1 picture(s) were left out" in printed
    assert "discs/03.png: it cannot be read" in printed


def test_samples_are_cut_as_asked(finished):
    first = second_stage.first_stage(str(finished[0]), None)
    prior = priors.transformer(first.model.cardinalities, 2, 16, 1, 2)
    plain, cold, greedy = (
        second_stage.SecondStage(first, prior, 0, {"temperature": t, "top_k": k, "top_p": None}).samples(0, 6) for t, k in ((1.0, None), (1e-4, None), (1.0, 1))
    )
    assert torch.allclose(cold, greedy, atol=1e-5)
    assert torch.allclose(greedy[0], greedy[2], atol=1e-5), "the same class"
    assert not torch.allclose(plain, greedy)
    with pytest.raises(SystemExit, match="Uniform draws in its own way"):
        second_stage.SecondStage(first, first.model.prior, 0, {"temperature": 0.5, "top_k": None, "top_p": None}).samples(0, 2)


def test_small_networks_see_colours():
    """Thirty-two groups of one channel take the mean of each away: the last norm gives the same for any two even squares."""
    even = torch.randn(2, 32, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 4, 4)
    size = plain_preset.Size(image=(3, 16, 16), multipliers=(1, 1, 1), features=32)
    blind, (model, learner) = plain_preset.plain(replace(size, group=1)).model, plain_preset.plain(size)
    assert blind.decoder.decoder.norm(even).abs().max() < 1e-2
    seen = model.decoder.decoder.norm(even)
    assert (seen[0] - seen[1]).abs().max() > 1
    norms = [module for part in (model, learner) for module in part.modules() if isinstance(module, Norm)]
    assert {module.num_channels // module.num_groups for module in norms} == {4}


def test_small_networks_are_published_and_loaded_as_they_are(tmp_path):
    model, learner = plain_preset.plain(plain_preset.Size(image=(3, 16, 16), multipliers=(1, 2), features=32))
    loaded, x = from_pretrained(save_pretrained(tmp_path, model, learner.posterior)), torch.rand(2, 3, 16, 16) * 2 - 1
    z = learner.posterior.eval()(model.eval(), x).mode
    assert torch.equal(loaded.posterior(loaded.model, x).mode, z)
    assert torch.equal(loaded.model.log_joint(x, z), model.log_joint(x, z))
    assert str(loaded.model) == str(model)


@pytest.mark.parametrize("preset", ["modern", "taming", "paper"])
def test_at_the_published_width_the_norms_are_the_published_ones(preset):
    presets = pytest.importorskip("latentcomp.taming.presets")
    node = OmegaConf.to_container(config("first_stage", f"preset={preset}", "preset.size.channels=128", *SMALL).preset, resolve=True)
    size = presets.Size(**{key: value for key, value in node["size"].items() if key != "_target_"})
    with torch.device("meta"):
        model, learner = getattr(presets, preset)(size, torch.nn.PairwiseDistance(), 0)
        ours, published = (str(net) for net in (model.decoder, getattr(presets, preset)(replace(size, group=1), torch.nn.PairwiseDistance(), 0).model.decoder))
    norms = [module for part in (model, learner.posterior) for module in part.modules() if isinstance(module, Norm)]
    assert {module.num_groups for module in norms} == {32}
    assert ours == published


def test_a_run_that_was_killed_goes_on_and_ends_where_it_would_have(root, finished, tmp_path):
    whole = finished[2]["curve"]

    class Killed(Exception):
        pass

    def killed(step):
        if step == 8:
            raise Killed

    options = config("first_stage", *SMALL, f"data.root={root}", "data.condition=class", "budget.updates=12", "budget.every=4")
    with pytest.raises(Killed):
        first_stage.execute(options, "row", killed, tmp_path)
    steps = []
    _, pictures = first_stage.execute(options, "row", steps.append, tmp_path / "last.pt")
    assert steps == [12]
    for look, other in zip(pictures["curve"], whole, strict=True):
        assert {key: value for key, value in look.items() if key != "seconds"} == {key: value for key, value in other.items() if key != "seconds"}
    with pytest.raises(ValueError, match=r"belongs to another run .*size mismatch.* or another folder with outputs=FOLDER"):
        first_stage.execute(config("first_stage", *SMALL, f"data.root={root}", "codes=16"), "row", place=tmp_path / "last.pt")


def test_a_stage_without_its_folder_says_which_option_to_give(tmp_path):
    with pytest.raises(SystemExit, match="give data.root=FOLDER"):
        first_stage.execute(config("first_stage"), "row", place=tmp_path / "last.pt")
    with pytest.raises(SystemExit, match="there is|is no folder"):
        first_stage.execute(config("first_stage", f"data.root={tmp_path / 'nowhere'}"), "row", place=tmp_path / "last.pt")
    with pytest.raises(SystemExit, match=r"first=.* is no folder of a first stage's run: it must hold first_stage.pt"):
        second_stage.execute(config("second_stage", f"first={tmp_path}"), "row", place=tmp_path / "last.pt")


def test_missing_weights_are_named(root, tmp_path):
    with pytest.raises(SystemExit, match=r"watched=lpips_alex needs weights=FOLDER, the folder of vgg16_features.safetensors .* or watch l1, psnr or ssim"):
        first_stage.execute(config("first_stage", *SMALL, f"data.root={root}", "watched=lpips_alex"), "row", place=tmp_path)
    assert judges.judges(None, signed=True).distances == {}
    with pytest.raises(FileNotFoundError, match=r"lacks vgg16_features.safetensors.*give weights=null, which leaves LPIPS and rFID out"):
        judges.judges(tmp_path, signed=True)


def test_a_critic_s_run_says_what_it_did_to_lpips():
    curve = [{"step": 1, "lpips": 0.5, "psnr": 20.0}, {"step": 2, "lpips": 0.4, "psnr": 21.0}, {"step": 3, "lpips": 0.3, "psnr": 19.0, "ramp": 0.5}]
    found = first_stage.critic_measures(curve)
    assert {name: measure.value for name, measure in found.items()} == {
        "val_lpips_before_critic": 0.4, "val_psnr_before_critic": 21.0, "val_lpips_with_critic": 0.3, "val_psnr_with_critic": 19.0,
    }  # fmt: skip
    assert first_stage.critic_measures(curve[:2]) == {}


def test_stopping_waits_and_knows_what_is_better():
    stopping = Stopping("psnr", patience=2)
    assert [stopping.better({"psnr": value}) for value in (20.0, 21.0, 20.5)] == [True, True, False]
    assert not stopping.ends
    restored = Stopping("psnr", patience=2)
    restored.load_state_dict(stopping.state_dict())
    assert not restored.better({"psnr": 21.0})
    assert restored.ends
    with pytest.raises(ValueError, match="watched=lpips is no number of a look; those are l1, psnr"):
        Stopping("lpips").better({"psnr": 1.0, "l1": 0.0})


@pytest.mark.parametrize(("metric", "bad"), [("l1", float("nan")), ("l1", float("inf")), ("psnr", float("nan"))])
def test_a_first_look_that_is_not_finite_is_named(metric, bad):
    with pytest.raises(FloatingPointError, match=rf"{metric} is {bad} at the look after step 40, and no look before it was finite"):
        Stopping(metric).better({metric: bad, "step": 40})
    stopping = Stopping(metric)
    assert stopping.better({metric: 1.0, "step": 40})
    assert not stopping.better({metric: float("nan"), "step": 80}), "a later one is only no better"


def test_a_run_stops_early_with_the_best_state(tmp_path):
    options = config("first_stage", "budget.updates=100", "budget.every=1", "patience=3")
    run, kept = Run(options, tmp_path, 10, {}), []
    scores = iter([0.5, 0.3, 0.4, 0.35, 0.31, 0.1])
    run.go(({"m_loss": torch.tensor(1.0)} for _ in range(100)), lambda: {"l1": next(scores)}, lambda: kept.append(run.state.step), lambda step: None)
    assert kept == [1, 2]
    assert run.state.step == 5
    assert run.best()["step"] == 2


def test_means_are_over_the_updates_that_had_a_metric():
    means = Means()
    for metrics in ({"a": torch.tensor(1.0)}, {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}):
        means.update(metrics)
    assert means.values() == {"a": 1.5, "b": 5.0}


def test_a_grid_has_each_image_in_its_place():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 2) / 10
    picture = grid(images, 3, enlarge=2)
    assert picture.shape == (3, 2 * 6, 3 * 6)
    assert torch.allclose(picture[:, 6 + 1 : 6 + 5, 6 + 1 : 6 + 5], torch.tensor(0.4))
    assert (picture[:, 0] == 1).all()
    assert (picture[:, 6:, 12:] == 1).all(), "what is missing is white"


def test_tensorboard_gets_numbers_and_pictures(tmp_path, monkeypatch):
    event = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path, tensorboard=True)
    board.look([{"step": 7, "l1": 0.25}])
    board.picture("reconstructions", torch.full((3, 4, 4), 0.5), 7)
    board.close()
    events = event.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("l1")] == [(7, 0.25)]
    assert [e.step for e in events.Images("reconstructions")] == [7]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Board(tmp_path, tensorboard=True)


@pytest.mark.parametrize("preset", ["modern", "taming", "paper"])
def test_presets_with_a_critic_are_found(preset):
    node = OmegaConf.to_container(config("first_stage", f"preset={preset}", "weights=FOLDER", *SMALL).preset, resolve=True)
    assert node.pop("_target_") == f"latentcomp.taming.presets.{preset}"
    assert node["distance"] == "FOLDER/vgg16_features.safetensors"
    distance = torch.nn.PairwiseDistance()  # in LPIPS's place, whose weights need not be here
    size = presets.Size(**{key: value for key, value in node["size"].items() if key != "_target_"})
    model, learner = getattr(presets, preset)(size, distance, node["start"])
    assert tuple(model.image_shape) == (3, 16, 16)
    assert learner.critic.ramp.start == node["start"]


@pytest.mark.parametrize("stage", ["images/first_stage", "photographs/first_stage", "images/second_stage"])
@pytest.mark.parametrize("budget", ["images/cpu", "images/smoke", "photographs/cpu", "photographs/smoke"])
def test_configurations_compose(stage, budget):
    composed = plain(
        settings.composed([f"experiment={stage}", f"budget={budget}", "data.root=FOLDER"] if "first" in stage else [f"experiment={stage}", f"budget={budget}"])
    )
    assert composed["procedure"].startswith("experiments.own_images.")
    assert composed["budget"]["updates"] > 0
