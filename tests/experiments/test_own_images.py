"""Own images, end to end: both stages on a folder of drawn pictures, resumed, stopped early, and with every part of what they leave."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from experiments import settings
from experiments.execute import plain
from experiments.own_images import figures, first_stage, judges, priors, second_stage
from experiments.own_images.given import Classes
from experiments.own_images.samples import Samples
from experiments.watching.board import Board
from experiments.watching.grids import tiles
from latentcomp.conditions import Labels
from latentcomp.engine import Engine
from latentcomp.learners.second_stage import second_stage as under
from latentcomp.nn.alex_lpips import AlexLPIPS
from latentcomp.nn.unet import Norm
from latentcomp.pretrained import from_pretrained, save_pretrained
from latentcomp.sampling.drawing import Drawing
from latentcomp.taming import presets
from tests.nn.vgg import vgg
from tests.pictures import folder, truncated

SMALL = ("crop=16", "codes=32", "features=32", "multipliers=[1,1,1]", "data.view.crops=4", "data.parts.test=0.2", "budget.size=8", "log.tensorboard=false")
TINY = ("second.width=16", "second.layers=1", "second.heads=2", "budget.size=8", "log.tensorboard=false")
SIZE = presets.Size((3, 16, 16), codes=32, width=32, features=32, channels=32, multipliers=(1, 1, 1), blocks=1, group=4)


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
    return path, *first_stage.execute(options, "row", folder=path)


def test_the_first_stage_learns_and_leaves_what_the_second_needs(finished, root):
    path, records, pictures = finished
    looks = pictures["curve"]
    assert [look["step"] for look in looks] == [4, 8, 12]
    assert looks[-1]["m_loss"] < looks[0]["m_loss"]
    found = values(records)
    assert {"psnr", "ssim", "l1", "code_usage", "code_perplexity", "bicubic_psnr", "bicubic_l1", "seconds"} <= found.keys()
    assert 1 / 32 <= found["code_usage"] <= 1
    json.dumps(records, allow_nan=False)
    assert {"first_stage.pt", "config.json", "health.csv", "reconstructions.png", "whole_0.png", "states"} <= {p.name for p in path.iterdir()}
    assert [p.name for p in sorted((path / "images").iterdir())] == [f"step-{step:09d}.png" for step in (4, 8, 12)]
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
    records, pictures = second_stage.execute(config("second_stage", *overrides), "row", folder=tmp_path)
    found, looks = values(records), pictures["curve"]
    assert looks[-1]["nats_per_code"] < looks[0]["nats_per_code"]
    assert found["nats"] == pytest.approx(16 * found["nats_per_token"])
    assert found["bits_per_dimension"] == pytest.approx(found["nats"] / (3 * 16 * 16 * torch.tensor(2.0).log().item()))
    assert found["nats_per_token"] < torch.tensor(32.0).log()  # a uniform prior's
    assert found["novelty"] > 0
    assert {"second_stage.pt", "config.json", "samples.png", "neighbours.png", "health.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert pictures["samples"].shape == (16, 3, 16, 16)
    printed = capsys.readouterr().out
    assert "nats/token" in printed
    assert "1 picture(s) were left out" in printed
    assert "discs/03.png: it cannot be read" in printed


def test_samples_are_cut_as_asked(finished):
    first = first_stage.loaded(str(finished[0]), None, Engine())
    prior = priors.transformer(priors.Sites(first.model.cardinalities, (4, 4), Labels(2), 2), 16, 1, 2)
    model = under(first.model, prior.eval())

    def drawn(model, **settings):
        return Samples(model, Classes(("discs", "slopes")), lambda: first.data, first.data.view, 0, Drawing(**settings))(0, 6)

    plain, cold, greedy = drawn(model), drawn(model, temperature=1e-4), drawn(model, top_k=1)
    assert torch.allclose(cold, greedy, atol=1e-5)
    assert torch.allclose(greedy[0], greedy[2], atol=1e-5), "the same class"
    assert not torch.allclose(plain, greedy)
    with pytest.raises(SystemExit, match="Uniform draws in its own way"):
        drawn(first.model, temperature=0.5)


def test_samples_that_could_not_be_drawn_are_refused_before_anything_is_learned(finished, tmp_path):
    for options, message in (
        (["sampling.top_k=33"], "top_k=33 codes cannot stay of V=32"),
        (["sampling.guidance=2"], "needs a prior that learned to do without its condition: train it with objective.drop=0.1"),
        (["sampling.guidance=2", "objective.drop=0.1"], "CausalTransformer has nothing that stands for no condition"),
        (["objective.drop=0.1", "condition=nothing"], "are about a condition, and this prior has none"),
    ):
        with pytest.raises(SystemExit, match=message):
            second_stage.execute(config("second_stage", *TINY, f"first={finished[0]}", *options), "row", folder=tmp_path)
    assert not (tmp_path / "states").exists()


def test_small_networks_see_colours():
    """Thirty-two groups of one channel take the mean of each away: the last norm gives the same for any two even squares."""
    even = torch.randn(2, 32, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 4, 4)
    blind, (model, learner) = presets.plain(replace(SIZE, group=1)).model, presets.plain(SIZE)
    assert blind.decoder.decoder.norm(even).abs().max() < 1e-2
    seen = model.decoder.decoder.norm(even)
    assert (seen[0] - seen[1]).abs().max() > 1
    norms = [module for part in (model, learner) for module in part.modules() if isinstance(module, Norm)]
    assert {module.num_channels // module.num_groups for module in norms} == {4}


def test_small_networks_are_published_and_loaded_as_they_are(tmp_path):
    model, learner = presets.plain(replace(SIZE, multipliers=(1, 2)))
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


@pytest.mark.usefixtures("unchecked")
def test_the_modern_preset_trains_with_its_codebook_and_its_critic(root, tmp_path):
    """A distance of thumbnails stands in for LPIPS, whose weights need not be here."""
    small = ("width=8", "preset.size.critic=8", "critic_start=2", "budget.updates=4", "budget.every=2", "average=0.9")
    thumbnails = "preset.distance={_target_: experiments.first_stage.Thumbnails}"
    records, pictures = first_stage.execute(config("first_stage", *SMALL, "preset=modern", thumbnails, *small, f"data.root={root}"), "row", folder=tmp_path)
    assert {"lambda", "ramp", "critic_real", "critic_made", "perceptual", "commitment"} <= pictures["curve"][-1].keys()
    assert "ramp" not in pictures["curve"][0]
    assert 0 < values(records)["code_usage"] <= 1
    codebook = first_stage.loaded(str(tmp_path), None, Engine()).model.codebook
    assert not codebook.waits, "k-means has placed its codes"
    torch.testing.assert_close(codebook.vectors.norm(dim=-1), torch.ones(32))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_modern_preset_trains_on_photographs_with_its_critic_and_both_lpips(root, tmp_path):
    """Weights at random, in files as the real ones come; the numbers mean nothing, but every part of the command runs."""
    pytest.importorskip("lpips")
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(vgg(), weights / judges.VGG)
    save_file({f"features.{key.split('.', 1)[1]}": value for key, value in AlexLPIPS(False).distance.net.state_dict().items()}, weights / judges.ALEX)
    small = ("preset.size.critic=8", "critic_start=1", "codes=64", "width=8", "features=32", "multipliers=[1,1,1]", "data.view.resize=32", "data.view.crops=1")
    options = ("budget=photographs/smoke", "budget.updates=2", "budget.every=2", "budget.size=4", "data.view.enlarge=true", "data.parts.test=0.2", *small)
    composed = settings.composed(
        ["experiment=photographs/first_stage", *options, f"data.root={root}", f"weights={weights}", "log.tensorboard=false"],
    )
    assert composed.preset._target_ == "latentcomp.taming.presets.modern"
    records, pictures = first_stage.execute(composed, "row", folder=tmp_path / "run")
    assert {"lpips", "lpips_alex", "rfid_vgg16", "bicubic_lpips_alex", "code_usage"} <= values(records).keys()
    assert {"lambda", "ramp", "critic_real", "critic_made", "perceptual", "l1", "lpips_alex"} <= pictures["curve"][-1].keys()
    spec = settings.table("photographs")
    assert {column for column in spec["columns"] if "_critic" not in column} <= values(records).keys(), "the table would have empty columns"
    assert {*spec["shows"], "curve"} <= pictures.keys()
    (drawn,) = figures.pictures({"first_stage": {0: pictures}}, spec)
    assert [len(image) for image in (pictures["images"], pictures["bicubic"])] == [len(pictures["reconstructions"])] * 2
    assert drawn.data.startswith(b"\x89PNG")


def test_a_stage_without_its_folder_says_which_option_to_give(tmp_path):
    with pytest.raises(SystemExit, match="give data.root=FOLDER"):
        first_stage.execute(config("first_stage"), "row", folder=tmp_path)
    with pytest.raises(SystemExit, match="there is|is no folder"):
        first_stage.execute(config("first_stage", f"data.root={tmp_path / 'nowhere'}"), "row", folder=tmp_path)
    with pytest.raises(SystemExit, match=r"first=.* is no folder of a first stage's run: it must hold first_stage.pt"):
        second_stage.execute(config("second_stage", f"first={tmp_path}"), "row", folder=tmp_path)


@pytest.mark.parametrize("crop", [2, 18])
def test_squares_that_are_smaller_than_a_code_or_no_whole_codes_are_refused(root, tmp_path, crop):
    with pytest.raises(SystemExit, match=rf"error: 3 levels make a stride of 4, which must divide the image; got {crop} x {crop}"):
        first_stage.execute(config("first_stage", *SMALL, f"data.root={root}", f"crop={crop}"), "row", folder=tmp_path)


def test_missing_weights_are_named(root, tmp_path):
    with pytest.raises(SystemExit, match=r"watched=lpips_alex needs weights=FOLDER, the folder of vgg16_features.safetensors .* or watch l1, psnr or ssim"):
        first_stage.execute(config("first_stage", *SMALL, f"data.root={root}", "watched=lpips_alex"), "row", folder=tmp_path)
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


def test_a_grid_has_each_image_in_its_place():
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 2, 2) / 10
    picture = tiles(images, 3, enlarge=2)
    assert picture.shape == (3, 2 * 6, 3 * 6)
    assert torch.allclose(picture[:, 6 + 1 : 6 + 5, 6 + 1 : 6 + 5], torch.tensor(0.4))
    assert (picture[:, 0] == 1).all()
    assert (picture[:, 6:, 12:] == 1).all(), "what is missing is white"


def test_the_health_table_has_a_line_a_look_and_goes_on_where_it_was(tmp_path, capsys):
    board = Board(tmp_path / "health.csv", per_epoch=4)
    board({"step": 2, "l1": 0.25, "m_loss": 3.0, "seconds": 1.0})
    again = Board(tmp_path / "health.csv", per_epoch=4)
    again.load_state_dict(board.state_dict())
    again({"step": 4, "l1": 0.125, "m_loss": 2.0, "seconds": 2.0})
    again({"step": 6, "l1": 0.0625, "m_loss": 1.0, "lambda": 0.5, "seconds": 3.0})
    rows = list(csv.DictReader((tmp_path / "health.csv").read_text().splitlines()))
    assert [(float(row["epoch"]), float(row["l1"]), row["lambda"]) for row in rows] == [(0.5, 0.25, ""), (1.0, 0.125, ""), (1.5, 0.0625, "0.5")]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["epoch", "step", "loss", "L1", "s"], ["0", "2", "3", "0.25", "1"],
        ["epoch", "step", "loss", "L1", "s"], ["1", "4", "2", "0.125", "2"],
        ["epoch", "step", "loss", "L1", "lambda", "s"], ["2", "6", "1", "0.0625", "0.5", "3"],
    ]  # fmt: skip


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
@pytest.mark.parametrize("budget", ["images/cpu", "images/smoke", "images/full", "photographs/cpu", "photographs/smoke", "photographs/full"])
def test_configurations_compose(stage, budget):
    composed = plain(
        settings.composed([f"experiment={stage}", f"budget={budget}", "data.root=FOLDER"] if "first" in stage else [f"experiment={stage}", f"budget={budget}"])
    )
    assert composed["procedure"].startswith("experiments.own_images.")
    assert composed["budget"]["updates"] > 0


@pytest.mark.parametrize("experiment", ["images", "photographs"])
def test_the_full_budget_has_the_published_sizes(experiment):
    """Those of the published custom_vqgan, and of its transformer; the groups of the norms are the published ones at this width, whatever they say."""
    options = [f"budget={experiment}/full", "data.root=FOLDER", "weights=FOLDER"]
    first = settings.composed([f"experiment={experiment}/first_stage", "preset=taming", *options])
    size = instantiate(first.preset.size)
    assert replace(size, group=1, image=tuple(size.image), multipliers=tuple(size.multipliers)) == presets.Size()
    assert (first.budget.size, first.critic_start) == (5, 10_000)
    assert first.optimizer.lr == pytest.approx(5 * 4.5e-6)
    assert settings.composed([f"experiment={experiment}/first_stage", "preset=modern", *options]).preset.size.width == 32
    second = settings.composed(["experiment=images/second_stage", f"budget={experiment}/full"])
    assert (second.second.width, second.second.layers, second.second.heads) == (1024, 24, 16)
    assert second.optimizer.lr == pytest.approx(second.budget.size * 4.5e-6)


def test_sizes_of_a_budget_are_overridden_as_any_setting():
    composed = config("first_stage", "preset=modern", "crop=16", "width=8", "preset.size.channels=16", "critic_start=3", "optimizer.lr=0.5", "data.root=FOLDER")
    assert list(composed.preset.size.image) == [3, 16, 16]
    assert (composed.preset.size.width, composed.preset.size.channels, composed.preset.start, composed.optimizer.lr) == (8, 16, 3, 0.5)
