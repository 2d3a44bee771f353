"""The rows of the tables of Taming Transformers: every one is there with its published value, can be built at its published size, and runs."""

import json
import math
import struct
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from experiments import settings
from experiments.execute import plain
from experiments.job import Job
from experiments.making import made
from experiments.report import SHOWN
from experiments.reproduce import parsed, reproduce
from experiments.taming import judges
from experiments.taming.priors import Sites, Snail, Transformer, parameters
from experiments.taming.second import prepared
from latentcomp import processes
from latentcomp.taming import load_vqgan
from tests import small_mnist
from tests.pictures import folder
from tests.processes.several import outcomes
from tests.taming.published import Weights, images, vq_config
from tests.taming.published import first_stage as published_codes

pytestmark = pytest.mark.filterwarnings("ignore::latentcomp.evaluate.collapse.CollapseWarning")
TABLES = [name for name in settings.tables() if name.startswith("taming")]
TASKS = sorted(path.stem for path in (settings.CONF / "task").glob("*.yaml"))
VALUES = {
    "taming_pixelsnail": {4.78, 4.83, 4.96, 4.84, 4.63, 4.69, 4.89, 4.70, 4.88, 4.49, 4.57, 4.64},
    "taming_conditional": {22.4, 35.5},
    "taming_faces": {10.2, 9.6, 21.9},
    "taming_imagenet": {17.04, 29.20, 15.98, 15.78, 5.20, 10.26, 7.35, 5.88, 6.59, 1.62},
    "taming_reconstruction": {7.94, 4.98, 1.49, 1.45, 1.14},
    "taming_geometries": {2.19, 1.37},
    "taming_orderings": {4.767, 4.810, 4.812, 4.889, 4.901, 5.015},
}
STANDS_IN = [("taming_imagenet", "mixed_accept50"), ("taming_reconstruction", "k1024"), ("taming_pixelsnail", "drin_pixelsnail")]
QUICK = [("taming_pixelsnail", "drin_time"), ("taming_geometries", "residual")]
ADE = 361.6  # millions that 28 layers of width 1,024 and K = 4,096 make, where the paper's table says 405


def own(table: str, row: str):
    """What a row's own file says."""
    return OmegaConf.load(settings.CONF / "experiment" / table / f"{row}.yaml")


@pytest.mark.parametrize("table", TABLES)
def test_every_row_of_the_paper_is_there_with_its_value(table):
    spec, expected = settings.table(table), set()
    for row in spec["rows"]:
        config = own(table, row)
        assert ("expected" in config) == ("source" in config)
        expected |= {config.expected[spec["headline"]]} if "expected" in config else set()
    assert expected == VALUES[table]


@pytest.mark.parametrize("table", TABLES)
def test_rows_that_are_compared_are_all_the_rows(table):
    spec = settings.table(table)
    if "groups" in spec:
        assert sorted(row for members in spec["groups"].values() for row in members) == sorted(spec["rows"])
        assert all(reference in members for reference, members in spec["groups"].items())
    assert all({"label"} < row.keys() <= {"label", *spec["columns"]} for row in spec.get("cited", []))


@pytest.mark.parametrize(("table", "row"), [("taming_pixelsnail", "sflckr_steps"), ("taming_reconstruction", "k1024")])
def test_a_row_of_the_full_budget_says_which_data_it_wants(table, row, tmp_path):
    config = settings.row(table, row, "full", 0)
    with pytest.raises(SystemExit, match=rf"this row learns from .*data\.root=FOLDER, a folder that holds {config.task.name}"):
        get_method(config.procedure)(config, row, folder=tmp_path)


def sites(task) -> Sites:
    """Of a task at its published size: f = 16 of 256 pixels."""
    given, vocabulary = {None: (0, 0), "class": (1, 1000), "labels": (256, task.codes), "depth": (256, task.codes)}[task.condition]
    return Sites((16, 16), task.codes, given, vocabulary)


@pytest.mark.parametrize("name", TASKS)
def test_priors_have_the_published_number_of_parameters(name):
    """Within 2 %, on the meta device; ADE20K's is another than the paper's table says, which contradicts itself there. PixelSNAIL's: within 5 % of that."""
    task = OmegaConf.load(settings.CONF / "task" / f"{name}.yaml")
    with torch.device("meta"):
        transformer = Transformer(**task.transformer)(sites(task))
    assert parameters(transformer) / 1e6 == pytest.approx(ADE if name == "ade20k" else task.millions, rel=0.02)
    if task.condition != "class":
        with torch.device("meta"):
            snail = Snail(**task.pixelsnail)(sites(task))
        assert parameters(snail) == pytest.approx(parameters(transformer), rel=0.05)


def test_the_verified_parameter_counts_of_the_published_code():
    """24 layers of width 1,024, K = 1,024, but for the positions that it never reads; FFHQ; ImageNet by class."""
    counts = {(24, 1024, 1024): 304_932_864 - 256 * 1024, (28, 1024, 1024): 355_055_616, (48, 1536, 16384): 1_410_642_432}
    for (layers, width, codes), published in counts.items():
        with torch.device("meta"):
            assert parameters(Transformer(layers, width, 16)(Sites((16, 16), codes))) == pytest.approx(published, abs=width)


@pytest.mark.parametrize("row", ["k1024", pytest.param("k16384", marks=pytest.mark.slow), pytest.param("f8_k256", marks=pytest.mark.slow), "two_levels"])
def test_first_stages_are_built_at_their_published_size(row):
    config = settings.row("taming_reconstruction", row, "full", 0)
    config.budget.preset.critic, config.budget.preset.likelihood = (
        None,
        OmegaConf.create({"_target_": "latentcomp.energies.PerceptualEnergy", "temperature": 1.0}),
    )
    with torch.device("meta"):
        model, learner = made(config.budget.preset)
    count = parameters(model.decoder) + parameters(learner.posterior)
    grid = {"k1024": 16**2, "k16384": 16**2, "f8_k256": 32**2, "two_levels": 64**2 + 32**2}[row]
    assert len(model.cardinalities) == grid
    assert model.codebook.codes == {"k1024": 1024, "k16384": 16384, "f8_k256": 256, "two_levels": 512}[row]
    if row.startswith("k"):
        assert count == 72_141_699 - 1024 * 256


def test_the_rows_of_a_data_set_differ_in_prior_limit_and_tuned_rate_alone():
    steps, timed, snail = (plain(settings.row("taming_pixelsnail", f"sflckr_{kind}", "cpu", 0)) for kind in ("steps", "time", "pixelsnail"))
    assert timed["limit"]["rival"] == snail["second"]
    assert timed | {"limit": steps["limit"]} == steps
    paces = steps["paces"]
    assert (steps["pace"], snail["pace"]) == (paces["transformer"], paces["pixelsnail"])
    assert snail["optimizer"] == steps["optimizer"] | {"lr": pytest.approx(steps["optimizer"]["lr"] * paces["pixelsnail"] / paces["transformer"])}
    assert snail | {name: steps[name] for name in ("second", "pace", "optimizer")} == steps
    assert isinstance(instantiate(snail["second"]), Snail)


@pytest.mark.slow
def test_orderings_differ_in_the_order_alone():
    rows = [plain(settings.row("taming_orderings", row, "cpu", 0)) for row in settings.table("taming_orderings")["rows"]]
    orders = [row["second"].pop("order") for row in rows]
    assert all(row == rows[0] for row in rows)
    assert len(set(orders)) == 6


GEOMETRIES = ("rotation", "sphere", "ema", "modern", "gumbel", "fsq", "lfq", "sim_vq", "residual")
OWN_OF_A_GEOMETRY = ("codebook", "quantiser", "codes", "width", "temperature", "ceiling")


@pytest.mark.parametrize("row", [row if row in ("fsq", "residual") else pytest.param(row, marks=pytest.mark.slow) for row in GEOMETRIES])
def test_geometries_differ_in_nothing_but_what_is_theirs(row):
    """The same recipe, and as many bits for a vector, but that FSQ's grid comes near them only."""
    usual, other = (plain(settings.row("taming_geometries", name, "cpu", 0)) for name in ("gradient", row))
    bits = math.log2(other["codes"]) * (2 if row == "residual" else 1)
    assert bits == pytest.approx(math.log2(usual["codes"]), abs=0.05 if row == "fsq" else 1e-9)
    assert other["width"] == usual["width"] or row in ("fsq", "lfq")
    for config in (usual, other):
        config["budget"].pop("preset")  # it repeats them
    assert {key: value for key, value in other.items() if key not in OWN_OF_A_GEOMETRY} == {k: v for k, v in usual.items() if k not in OWN_OF_A_GEOMETRY}
    weights = {key: other["quantiser"].get(key) for key in ("codebook", "commitment")}
    assert weights == {"codebook": 1.0, "commitment": 0.25} or row in ("gumbel", "fsq", "lfq")


def check(table, row, folder, *overrides):
    config = settings.row(table, row, "smoke", 0, ("log.tensorboard=false", *overrides))
    steps = []
    records, pictures = get_method(config.procedure)(config, row, steps.append, folder / f"{row}-0")
    values = {record["metric"]: record["value"] for record in records}
    assert values.keys() >= set(settings.table(table)["columns"])
    assert all(value is None or math.isfinite(value) for value in values.values())
    assert pictures.keys() >= {"curve", "best_step", *settings.table(table).get("shows", SHOWN)}
    known = table == "taming_imagenet" and not steps  # a row that only draws in another way takes the prior from another
    assert known or steps == list(range(1, int(pictures["curve"][-1]["step"]) + 1))
    assert {record["metric"]: record["expected"] for record in records if record["expected"] is not None} == dict(config.expected)
    json.dumps(records, allow_nan=False)
    return values


@pytest.mark.parametrize(("table", "row"), QUICK)
def test_rows_run(table, row, tmp_path):
    check(table, row, tmp_path)


def test_a_row_of_the_full_budget_has_its_task_s_networks_and_cuts():
    config = settings.row("taming_imagenet", "mixed", "full", 0)
    assert isinstance(made(config.second), Transformer)
    assert made(config.second)._asdict() | {"order": None} == {**config.task.transformer, "order": None}
    assert made(config.sampling).cuts == [100, 200, 250, 300, 350, 400, 500, 600, 800, 973]
    assert settings.row("taming_imagenet", "mixed", "cpu", 0).sampling.top_k == [int(k / 16) for k in made(config.sampling).cuts]


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("table", TABLES)
def test_every_row_composes(table, budget):
    for row in settings.table(table)["rows"]:
        config = settings.row(table, row, budget, 0, () if budget != "full" else ("data.root=FOLDER",))
        assert plain(config)["budget"]
        assert config.data._target_.rpartition(".")[2] == ("own" if budget == "full" else "digits")


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_row_runs(table, tmp_path):
    for row in settings.table(table)["rows"]:
        check(table, row, tmp_path)


def carried_out(_, folder: str) -> dict[str, float]:
    """What a row of a first stage of pictures, one of maps and a prior comes to, in as many processes as there are."""
    config = settings.row("taming_pixelsnail", "drin_pixelsnail", "smoke", 0, ("precision=64-true", f"machine.devices={processes.count()}"))
    records, _ = get_method(config.procedure)(config, "row", folder=Path(folder) / "row-0")
    return {record["metric"]: record["value"] for record in records if record["metric"] != "seconds"}


@pytest.mark.slow
def test_two_processes_make_the_row_of_one(tmp_path):
    pytest.importorskip("lightning_fabric")
    name = f"{__name__}:carried_out/{tmp_path / 'two'}"
    (first, second), alone = outcomes(tmp_path, [name])[name], carried_out(None, str(tmp_path / "one"))
    assert first == second
    assert first == pytest.approx(alone, rel=1e-9)


@pytest.mark.slow
def test_rows_of_one_prior_draw_from_the_same_one(tmp_path):
    a, b = (check("taming_imagenet", row, tmp_path) for row in ("mixed", "k250"))
    assert a["nats_per_code"] == b["nats_per_code"]
    assert a["fid"] != b["fid"]
    assert len([path for path in (tmp_path / "priors").iterdir()]) == 1


def test_a_published_first_stage_takes_the_place_of_a_trained_one(tmp_path):
    """Codes are those of the import itself."""
    config, w = vq_config(in_channels=1, out_ch=1), Weights()
    published_codes(config, w, images(1, 1, 16, 16))  # draws the weights
    torch.save({"state_dict": dict(w)}, tmp_path / "vqgan.ckpt")
    (tmp_path / "vqgan.yaml").write_text(OmegaConf.to_yaml({"model": config}))
    files = (f"first_stage.checkpoint={tmp_path}/vqgan.ckpt", f"first_stage.yaml={tmp_path}/vqgan.yaml")
    row = settings.row("taming_orderings", "row_major", "smoke", 0, ("first_stage=published", *files))
    on = prepared(Job(row, "row_major", lambda step: None, tmp_path / "row_major-0", None))
    (batch, *_), stage = on.data.data.held_out("test"), load_vqgan(tmp_path / "vqgan.ckpt", tmp_path / "vqgan.yaml")
    assert torch.equal(on.data.held_out("test")[0].z, stage.encode(batch.x))
    assert on.sites == Sites((8, 8), 16)
    assert not (tmp_path / "first_stages").exists()
    with pytest.raises(SystemExit, match=r"first_stage\.checkpoint=FILE\.ckpt"):
        prepared(Job(settings.row("taming_orderings", "row_major", "smoke", 0, ("first_stage=published",)), "row_major", lambda step: None, None, None))


def unreachable():
    """A download on a machine without a network."""
    raise URLError("no such host")


INCEPTION = "budget.judge={_target_: experiments.taming.judges.inception}"
RESNET = "budget.rejector={_target_: experiments.taming.judges.resnet101}"


@pytest.mark.parametrize(
    ("table", "row", "judge", "wanted"),
    [
        ("taming_faces", "ffhq", INCEPTION, r"no weights of Inception-v3 at .*\. Here weights=FOLDER names the folder"),
        ("taming_reconstruction", "k1024", INCEPTION, r"no weights of Inception-v3 at .*\. Here weights=FOLDER names the folder"),
        ("taming_faces", "ffhq", "+sampling.acceptance=0.5", r"acceptance=0\.5: samples of a class are rejected, and this row has none: set it to 1"),
        ("taming_imagenet", "mixed_accept50", RESNET, r"ResNet-101, which rejects samples, could not be downloaded .no such host.*sampling\.acceptance=1"),
    ],
)
def test_a_judge_that_is_missing_is_asked_for_before_anything_is_learned(table, row, judge, wanted, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(judges, "ResNet101", unreachable)
    config = settings.row(table, row, "smoke", 0, ("log.tensorboard=false", judge))
    with pytest.raises(SystemExit, match=wanted):
        get_method(config.procedure)(config, row, lambda step: pytest.fail("an update was made"), tmp_path / f"{row}-0")
    assert not any((tmp_path / name).exists() for name in ("first_stages", "priors"))


@pytest.mark.slow
@pytest.mark.parametrize(("table", "row"), STANDS_IN)
def test_other_pictures_stand_in(table, row, tmp_path):
    """Fashion-MNIST's files, and a folder of pictures in two classes."""
    for name, n in (("train", 200), ("t10k", 60)):
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28)
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + small_mnist.images(n, n).numpy().tobytes())
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(i % 10 for i in range(n)))
    check(table, row, tmp_path / "fashion", "data=taming/fashion_mnist", f"data.root={tmp_path}", "side=32")
    if table != "taming_reconstruction":  # whose judge learns from classes
        for name in ("a", "b"):
            folder(tmp_path / "pictures" / name, 6, height=40, width=40)
        condition = "class" if table == "taming_imagenet" else "depth"
        check(table, row, tmp_path / "folder", "data=taming/folder", f"data.root={tmp_path}/pictures", "channels=3", f"data.condition={condition}")


@pytest.mark.slow
def test_some_rows_of_a_table_with_what_it_cites(tmp_path):
    folder = reproduce(parsed(["taming_conditional", "budget=smoke", "rows=ade20k", f"outputs={tmp_path}"]))
    table = (folder / "table.md").read_text()
    assert "ADE20K" in table
    assert "SPADE, ADE20K" in table
    assert "33.90" in table
    assert "\n| COCO-Stuff " not in table
    assert "Difference" not in table
    assert (folder / "report.html").stat().st_size
    assert "rows=ade20k" in json.loads((folder / "meta.json").read_text())["command"]
    with pytest.raises(SystemExit, match="no row 'ade'.*Did you mean ade20k"):
        parsed(["taming_conditional", "rows=ade"])
