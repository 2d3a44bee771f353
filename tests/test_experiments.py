"""Every row composes and runs; the command line says what exists; a table resumes, and refuses another version's folder."""

import errno
import json
import math
import os
import signal

import pytest
import torch
from hydra.utils import get_method, instantiate

from experiments import pool, settings
from experiments.execute import build, execute, plain
from experiments.report import SHOWN
from experiments.reproduce import ONE_RUN, parsed, reproduce
from experiments.results import Folder, OtherSettings, OtherVersion, differences
from latentcomp.checkpoints import Checkpoints
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.run import validation_nll
from latentcomp.signals import Interrupted
from latentcomp.train import NonFiniteLoss
from tests import small_mnist

OWN = ("gradients", "photographs", *(table for table in settings.tables() if table.startswith("taming")))  # test_gradients, test_own_images, taming/test_rows
TRAINED = [table for table in settings.tables() if table not in OWN and "like" not in settings.table(table)]
ROWS = [(table, row) for table in TRAINED for row in settings.table(table)["rows"]]
QUICK = [(table, rows[place]) for table in TRAINED for rows in [settings.table(table)["rows"]] for place in (0, -1)]  # the others are slow tests
SMALL_MNIST = ("budget.validation=20", "budget.test=4", "budget.look_images=4", "budget.dreams=4")
MNIST = {"mnist": SMALL_MNIST, "collapse": SMALL_MNIST[:3]}  # by budget: what makes the table's data small
TINY = ("budget.updates=2", "budget.every=1", "budget.size=20", "budget.prior_updates=2", "log.tensorboard=false", "log.pictures=false")


def small_row(table, row, tmp_path):
    """Its configuration, with next to nothing to do and little data."""
    small = MNIST.get(settings.table(table)["budgets"], ())
    small = (*small, f"data.root={small_mnist.write(tmp_path)}") if small else ()
    return settings.row(table, row, "smoke", 0, (*TINY, *small))


@pytest.mark.parametrize("table", TRAINED)
def test_every_other_row_composes_and_is_built(table, tmp_path):
    """Those that are not run below, and train on the table's data: its model, its posterior and its budget fit one another."""
    for row in settings.table(table)["rows"][1:-1]:
        config = small_row(table, row, tmp_path)
        if config.procedure == ONE_RUN:
            data, model, learner, _, budget = build(config)
            assert math.isfinite(validation_nll(model, learner.posterior, data.validation[:2], budget)), row


@pytest.mark.parametrize(("table", "row"), [pytest.param(*run, marks=[] if run in QUICK else pytest.mark.slow) for run in ROWS], ids=str)
def test_a_row_runs_two_steps(table, row, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "experiments.amortisation.frozen_model", lambda seed, budget: build(settings.row("digits", "gflownet_em", "smoke", seed))[1].requires_grad_(False)
    )
    config, steps = small_row(table, row, tmp_path), []
    records, pictures = get_method(config.procedure)(config, row, steps.append, tmp_path)
    values = {record["metric"]: record["value"] for record in records}
    assert steps == list(range(1, config.batches + 1))
    assert {record["row"] for record in records} == {row}
    missing = {heading.get("best_of", metric) for metric, heading in settings.table(table)["headings"].items()} - values.keys()
    priors = {prior for prior in ("_uniform_prior", "_own_prior") if any(metric.endswith(prior) for metric in missing)}
    assert len(priors) < 2, "a model was trained with one prior or the other"
    assert all(metric.endswith(("_uniform_prior", "_own_prior")) for metric in missing)
    if values.get("exact_nll") is not None:  # an energy has none
        rounding = torch.finfo(torch.float32).eps * abs(values["exact_nll"])  # of the two that are subtracted
        assert values["own_bound"] - values["exact_nll"] == pytest.approx(values["kl_q_p"], abs=rounding)
    assert len(pictures["curve"]) == config.batches
    assert pictures.keys() >= set(settings.table(table).get("shows", SHOWN)), "the report would find the run damaged"
    json.dumps(records, allow_nan=False)


def test_measures_of_images_are_added_to_a_row_by_name():
    config = settings.composed(["+also=images"])
    also = instantiate(config.also)
    assert isinstance(also, ImageMeasures)
    data, model, learner, *_ = build(config)
    found = also(model, learner, data._replace(test=data.test[:8]))
    assert {"psnr", "ssim", "l1", "code_usage", "code_perplexity"} <= found.keys()
    assert "also" in plain(config)
    assert settings.composed([]).also is None


@pytest.mark.parametrize("table", settings.tables())
def test_a_table_s_words_fit_its_rows_and_columns(table):
    spec = settings.table(table)
    assert set(spec["labels"]) == set(spec["rows"])
    assert set(spec["headings"]) == set(spec["columns"])
    assert spec["headline"] in spec["columns"]
    assert spec.get("reference", spec["rows"][0]) in spec["rows"]
    assert {"smoke", "cpu", "full"} <= set(settings.budgets(spec))


def test_a_table_says_what_its_runs_were_made_with():
    """Nats of other images, pixels or numbers of codes are not comparable, and must not go by the usual's name."""
    spec = settings.table("mnist")
    other = settings.row("mnist", "vq_ema", "full", 0, ("data=fashion_mnist", "data.binarisation=dynamic", "budget.codes=4"))
    assert settings.worded(spec, other)["title"].startswith("Fashion-MNIST, training pixels drawn anew in each batch, test pixels once; 4x4 codes of K = 4:")
    assert "first 10000 test images" in settings.worded(spec, other)["note"]
    assert settings.worded_as_usual("mnist")["title"].startswith("MNIST, pixels thresholded at one half; 4x4 codes of K = 8:")


@pytest.mark.parametrize("codes", [4, 10])
def test_a_table_like_another_has_its_rows_with_its_own_settings(codes):
    spec = settings.table(f"mnist_k{codes}")
    assert spec["rows"] == settings.table("mnist")["rows"]
    assert settings.row(f"mnist_k{codes}", "modern_greedy", "full", 0).codes == codes
    assert f"K = {codes}:" in settings.worded_as_usual(f"mnist_k{codes}")["title"]


def test_one_backbone():
    def backbone(row):
        config = plain(settings.row("digits", row, "cpu", 0))
        codebook = {key: value for key, value in config["model"]["codebook"].items() if key in ("codes", "width")}
        return config["model"] | {"codebook": codebook}, config["trunk"], config["data"], config["budget"]

    rows = settings.table("digits")["rows"]
    assert all(backbone(row) == backbone(rows[0]) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "Did you mean digits"),
        (["digits", "budget=huge"], "Known: cpu, full, smoke"),
        (["digits", "seeds=none"], "whole number"),
        (["digits", "quickly"], "write key=value"),
        ([], "Tables:"),
    ],
)
def test_the_command_line_lists_what_exists(arguments, message):
    with pytest.raises(SystemExit, match=message):
        parsed(arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=digits/exact", "Known: .*digits/exact_em"),
        ("learner=gflow", "Known: .*gflownet_em"),
        ("optimizer.rate=1", "optimizer.lr"),
        ("sitez=4", "Did you mean sites"),
    ],
)
def test_an_unknown_override_lists_the_known_ones(override, message):
    with pytest.raises(SystemExit, match=message):
        settings.composed([override])


@pytest.fixture
def small_table(monkeypatch):
    """The digits table with one row."""
    spec = settings.table("digits") | {"rows": ["vq_ema"], "reference": "vq_ema"}
    monkeypatch.setattr(settings, "table", lambda name: spec)


@pytest.mark.usefixtures("small_table")
def test_a_table_is_written_and_resumes(tmp_path, monkeypatch):
    request = parsed(["digits", "budget=smoke", "seeds=2", f"outputs={tmp_path}", *TINY])
    folder = reproduce(request)
    assert folder == tmp_path / "reproduce" / "digits-smoke"
    records = json.loads((folder / "results.json").read_text())
    assert {record["seed"] for record in records} == {0, 1}
    assert {"row", "seed", "metric", "value", "unit", "stderr", "expected", "source", "seconds", "config"} <= records[0].keys()
    infinite = [record for record in records if record["metric"] == "kl_p_q"]
    assert all(record["value"] is None and "infinite" in record["reason"] for record in infinite)
    assert all((folder / name).stat().st_size for name in ("meta.json", "table.md", "table.tex", "report.html"))

    (folder / "runs" / "vq_ema-1.json").unlink()  # as if interrupted before the second run had ended
    kept = (folder / "runs" / "vq_ema-0.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:  # in this process, without a second report: both take seconds to begin
        patch.setattr(pool, "side_by_side", lambda function, jobs, *_: enumerate([function(*job) for job in jobs]))
        patch.setattr("experiments.reproduce.write_report", lambda folder: None)
        reproduce(request)
    assert (folder / "runs" / "vq_ema-0.json").stat().st_mtime_ns == kept
    again = json.loads((folder / "results.json").read_text())
    timed = ("seconds", "decoder_evaluations")
    assert [r["value"] for r in again if r["metric"] not in timed] == [r["value"] for r in records if r["metric"] not in timed]
    assert json.loads((folder / "meta.json").read_text())["runs_made"] == 1

    with pytest.raises(OtherSettings, match=r"vq_ema-0\.json .*codes was 8, is 3.*outputs="):
        reproduce(parsed(["digits", "budget=smoke", "seeds=2", f"outputs={tmp_path}", *TINY, "codes=3"]))
    assert json.loads((folder / "runs" / "vq_ema-0.json").read_text())[0]["config"]["codes"] == 8


def test_a_wrong_folder_of_data_is_one_error_and_no_run_begins(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: data.root=\S+nowhere is no folder"):
        reproduce(parsed(["mnist", "budget=smoke", f"outputs={tmp_path}", f"data.root={tmp_path}/nowhere"]))
    assert not (tmp_path / "reproduce" / "mnist-smoke" / "runs").exists()


def test_a_folder_counts_the_minutes_of_all_calls(tmp_path):
    folder = Folder(tmp_path)
    assert folder.meta() == {}
    folder.describe({"minutes": 2.5})
    assert folder.meta()["minutes"] == 2.5


def test_what_differs_between_two_configurations_is_named():
    assert differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == ["a.c was 2, is 4", "d was 3, is absent", "e was absent, is 5"]


def test_a_folder_of_another_version_is_refused_and_left_alone(tmp_path):
    (tmp_path / "meta.json").write_text('{"version": "0.0.0"}')
    with pytest.raises(OtherVersion, match=r"0\.0\.0.*outputs="):
        Folder(tmp_path).check()
    assert (tmp_path / "meta.json").read_text() == '{"version": "0.0.0"}'


@pytest.mark.usefixtures("small_table")
def test_a_run_that_diverges_is_named_and_the_others_are_kept(tmp_path):
    request = parsed(["digits", "budget=smoke", "seeds=1", f"outputs={tmp_path}", *TINY, "optimizer.lr=1e30"])
    with pytest.raises(SystemExit, match=r"vq_ema, seed 0: NonFiniteLoss.*StraightThrough.*step"):
        reproduce(request)


def test_a_run_that_diverges_keeps_its_checkpoints_and_the_batch(tmp_path):
    small = ("budget.updates=6", "budget.every=1", "budget.size=20", "budget.prior_updates=2", "log.tensorboard=false")
    config = settings.row("digits", "vq_ema", "smoke", 0, (*small, "optimizer.lr=1e30"))
    with pytest.raises(FloatingPointError, match=r"step 1;.* positions .* The batch and the states that it met are in .*non_finite-0\.pt"):
        execute(config, "vq_ema", folder=tmp_path)
    (own,) = (tmp_path / "states").iterdir()
    assert Checkpoints(own).latest().step == 1, "the state after the one good step"
    kept = torch.load(tmp_path / "non_finite-0.pt", weights_only=True)
    assert (kept["step"], kept["learner"], kept["term"]) == (1, "StraightThrough", "VQ")
    assert kept["batch"]["x"].shape == (20, 1, 8, 8)
    assert kept["states"]["learner"].keys() >= {"_extra_state"}


def test_a_full_disk_neither_hides_what_diverged_nor_ends_a_run_for_an_image(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    small = ("budget.updates=2", "budget.every=1", "budget.size=20", "budget.prior_updates=2", "log.tensorboard=false")
    monkeypatch.setattr("experiments.machine.save_data", full)
    with pytest.raises(NonFiniteLoss, match=r"step 1;.* could not be written to .*non_finite-0\.pt .*No space left"):
        execute(settings.row("digits", "vq_ema", "smoke", 0, (*small, "optimizer.lr=1e30")), "vq_ema", folder=tmp_path)
    monkeypatch.setattr("experiments.watching.watcher.save", full)
    with pytest.warns(UserWarning, match=r"step-00000000[12]\.png could not be written \(No space left on device\); the run goes on"):
        assert execute(settings.row("digits", "vq_ema", "smoke", 0, small), "vq_ema", folder=tmp_path)[0]


def test_a_stopped_run_goes_on_and_its_log_has_every_step_once(tmp_path):
    small = ("budget.updates=6", "budget.every=2", "budget.size=20", "budget.prior_updates=2")
    config = settings.row("digits", "gflownet_em", "smoke", 0, small)
    whole = execute(config, "gflownet_em", folder=tmp_path / "whole")[0]

    def stop(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="SIGTERM came after 3 of 6 batches; saved"):
        execute(config, "gflownet_em", stop, tmp_path / "stopped")
    steps = []
    again = execute(config, "gflownet_em", steps.append, tmp_path / "stopped")[0]
    assert steps == [4, 5, 6]
    timed = ("seconds",)
    assert [r["value"] for r in again if r["metric"] not in timed] == [r["value"] for r in whole if r["metric"] not in timed]
    logs = [next((tmp_path / name / "states").glob("*/metrics.csv")).read_text() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]
    assert "6,val_nll," in logs[0]
    assert len(list((tmp_path / "stopped" / "images").glob("*.png"))) == 3
    assert list((tmp_path / "stopped" / "states").glob("*/tensorboard/events*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_while_a_run_is_judged_ends_it_with_the_documented_code_and_it_goes_on(number, tmp_path, monkeypatch):
    config, handler, steps = settings.row("digits", "vq_ema", "smoke", 0, TINY), signal.getsignal(number), []
    with monkeypatch.context() as patch:
        patch.setattr("experiments.execute.judge", lambda *_: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted, match=f"{number.name} came outside training; all that is saved is kept") as caught:
            execute(config, "vq_ema", folder=tmp_path)
    assert caught.value.code == 75
    assert signal.getsignal(number) is handler
    assert execute(config, "vq_ema", steps.append, tmp_path)[0]
    assert steps == []
