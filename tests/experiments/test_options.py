"""Every procedure honours an option or refuses it by name: none is ignored."""

import functools
import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf

from experiments import options, settings
from experiments.execute import build
from experiments.second_stage import FirstStage
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import train
from latentcomp.learners.second_stage import SecondStage
from tests import small_mnist
from tests.pictures import folder

ROWS = {  # one row of each procedure, small
    "experiments.execute.execute": ["experiment=digits/vq_ema", "budget=digits/smoke"],
    "experiments.first_stage.execute": ["experiment=vqgan/taming", "budget=vqgan/smoke"],
    "experiments.second_stage.execute": ["experiment=second_stage/transformer", "budget=second_stage/smoke"],
    "experiments.collapse.execute": ["experiment=collapse/legacy", "budget=collapse/smoke", "codes=16", "budget.validation=20", "budget.test=4"],
    "experiments.amortisation.execute": ["experiment=amortisation/log_variance", "budget=amortisation/smoke"],
    "experiments.own_images.first_stage.execute": ["experiment=images/first_stage", "budget=images/smoke", "crop=16", "codes=8", "features=32"],
    "experiments.own_images.second_stage.execute": ["experiment=images/second_stage", "budget=images/smoke"],
    "experiments.taming.reconstruction.execute": ["experiment=taming_reconstruction/k1024", "budget=taming_reconstruction/smoke"],
    "experiments.taming.second.execute": ["experiment=taming_orderings/row_major", "budget=taming_orderings/smoke"],
    "experiments.mixture.run.execute": ["experiment=mixture/exact_em", "budget=mixture/smoke"],
    "experiments.gradients.run.execute": ["experiment=gradients/sleep", "budget=gradients/smoke"],
    "experiments.programs.run.execute": ["experiment=pyro/gflownet", "budget=pyro/smoke"],
}
OTHERS = {  # what is not the default
    "rates": {"theta": 2, "phi": 1, "log_z": 1}, "schedule": {"theta": {"_target_": "experiments.descent.Cosine"}}, "average": 0.5, "clip": 7.0,
    "prior": {"_target_": "latentcomp.priors.Uniform"}, "proposal": {"_target_": "latentcomp.posteriors.exact.Exact"},
    "also": {"_target_": "latentcomp.evaluate.images.ImageMeasures"}, "precision": "64-true", "machine.accelerator": "gpu", "machine.devices": 2,
    "machine.nodes": 2, "machine.strategy": "ddp", "machine.timeout": 7, "machine.accumulate": 2, "machine.save_every": 3, "log.every": 7,
    "log.tensorboard": "often", "log.wandb": "project", "log.pictures": "many",
}  # fmt: skip


def procedures() -> set[str]:
    """Those that the configurations name."""
    lines = [line for path in settings.CONF.rglob("*.yaml") for line in path.read_text().splitlines()]
    return {line.partition(":")[2].split("#")[0].strip() for line in lines if line.startswith("procedure:")}


@functools.cache
def composed(name: str):
    config = settings.composed(ROWS[name])
    assert config.procedure == name
    return config


def test_every_procedure_and_every_option_is_listed():
    assert procedures() == set(options.PROCEDURES) == set(ROWS)
    assert set(options.OPTIONS) == set(OTHERS)
    assert all(set(procedure.honours) <= set(options.OPTIONS) for procedure in options.PROCEDURES.values())


@pytest.mark.parametrize("name", ROWS)
def test_what_a_procedure_does_not_honour_it_refuses_by_name(name, monkeypatch):
    """The procedure itself refuses, before it does anything, as well as whoever composes its configuration."""
    usual, honours = composed(name), options.PROCEDURES[name].honours
    for option, value in OTHERS.items():
        config = OmegaConf.merge(usual, {})
        OmegaConf.update(config, option, value, merge=False)
        if option in honours:
            options.refuse(config)
            continue
        with pytest.raises(options.RefusedOption, match=rf"{name} cannot honour {option}=.*: .+leave {option} at .+, its default") as caught:
            get_method(name)(config, "row")
        assert isinstance(caught.value.code, str), "what the command line prints"
    if "machine.devices" not in honours:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(options.RefusedOption, match="cannot honour torchrun's several processes.*start it with python alone"):
            options.refuse(usual)


def test_the_command_line_refuses_before_anything_runs():
    with pytest.raises(options.RefusedOption, match=r"experiments\.mixture\.run\.execute cannot honour clip=1\.0: .*leave clip at null"):
        settings.row("mixture", "exact_em", "smoke", 0, ("clip=1.0",))
    settings.row("mixture", "exact_em", "smoke", 0, ("log.tensorboard=false",))  # it has no log, so that is what it does
    assert settings.composed(["procedure=mine.execute", "clip=1.0"]).clip == 1.0, "somebody else's may honour it"


class Captured(Exception):
    """What reached ``train``."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("pictures"), 8)


@pytest.fixture(scope="module")
def first(pictures, tmp_path_factory) -> Path:
    """A finished first stage."""
    place = tmp_path_factory.mktemp("first")
    name = "experiments.own_images.first_stage.execute"
    config = settings.composed([*ROWS[name], f"data.root={pictures}", "data.parts.test=0.2", "budget.updates=1", "log.tensorboard=false", "log.pictures=false"])
    get_method(name)(config, "row", folder=place)
    return place


@pytest.mark.parametrize("name", [name for name in ROWS if options.PROCEDURES[name].honours])
def test_what_a_procedure_honours_reaches_the_one_loop(name, monkeypatch, tmp_path, pictures, first):
    """Everything at once, as ``train`` is given it; what ``train`` makes of it is tested where it stands. A first stage that comes before has settings of its
    own.
    """
    pytest.importorskip("lightning_fabric")

    def captured(model, learner, data, descent, budget, seed, watch, machine, looks):
        if name.endswith("taming.second.execute") and not isinstance(learner, SecondStage):
            return train(model, learner, data, descent, budget, seed, watch, machine, looks)
        raise Captured(descent, machine, model)

    monkeypatch.setattr("experiments.job.train", captured)
    monkeypatch.setattr(
        "experiments.amortisation.frozen_model", lambda seed, budget: build(settings.row("digits", "gflownet_em", "smoke", seed))[1].requires_grad_(False)
    )
    honours, config = options.PROCEDURES[name].honours, composed(name)
    where = {"data": {"root": str(small_mnist.write(tmp_path))}} if "collapse" in name else {}
    where |= {"data": {"root": str(pictures), "parts": {"test": 0.2}}} if name.endswith("images.first_stage.execute") else {}
    where |= {"first": str(first)} if name.endswith("images.second_stage.execute") else {}
    config = OmegaConf.merge(config, where)
    own = OTHERS | {
        "machine.accelerator": "cpu",
        "machine.devices": 1,
        "machine.nodes": 1,
        "machine.strategy": "auto",
        "log.tensorboard": False,
        "log.pictures": False,
    }
    for option in [option for option in honours if option not in ("log.wandb", "prior", "proposal", "also")]:
        OmegaConf.update(config, option, own[option], merge=False)
    with pytest.raises(Captured) as caught:
        get_method(name)(config, "row", folder=tmp_path / "run")
    descent, machine, model = caught.value.args
    assert (descent.clip, descent.average) == (7.0, 0.5)
    assert descent.scheduler is not None
    assert (machine.accumulate, machine.every, machine.log.log.every) == (2, 3, 7)
    place = machine.checkpoints.folder.parent
    assert place == tmp_path / "run" / "states" or (name.endswith("taming.second.execute") and place.parents[1] == tmp_path / "priors")
    assert list(machine.log.log.writers) == ["csv"]
    assert machine.fabric.strategy.precision.precision == "64-true"
    assert all(p.dtype == torch.float64 for p in model.decoder.parameters()) or not ("images" in name or "taming" in name)
    if "rates" in honours and len(descent.optimizer.param_groups) > 1:
        rates = {group["name"]: group["lr"] for group in descent.optimizer.param_groups}
        assert "theta" not in rates or rates["theta"] != rates["phi"]


def further(model, learner, data) -> dict[str, Measure]:
    """A measure of one's own."""
    return {"further": Measure(float(len(data.test)), "images")}


@pytest.mark.parametrize("name", [name for name, procedure in options.PROCEDURES.items() if "also" in procedure.honours])
def test_further_measures_are_taken_where_they_are_honoured(name, monkeypatch, tmp_path):
    sizes = ("sites=2", "codes=4") if "amortisation" in name or "execute.execute" in name else ()
    monkeypatch.setattr(
        "experiments.amortisation.frozen_model",
        lambda seed, budget: build(settings.row("digits", "gflownet_em", "smoke", seed, sizes)).model.requires_grad_(False),
    )
    monkeypatch.setattr("experiments.second_stage.first_stage", lambda *_: untrained())
    where = ("budget.look_images=4", f"data.root={small_mnist.write(tmp_path)}") if "collapse" in name else ()
    also = "also={_target_: hydra.utils.get_method, path: tests.experiments.test_options.further}"
    config = settings.composed([*ROWS[name], *sizes, *where, "budget.updates=1", "budget.every=1", "budget.prior_updates=1", also])
    records, _ = get_method(name)(config, "row")
    assert [record["unit"] for record in records if record["metric"] == "further"] == ["images"]


def untrained() -> FirstStage:
    made = build(settings.row("digits", "vq_ema", "smoke", 0, ("sites=16", "codes=16")))
    return FirstStage(made.model, made.learner.posterior, made.data)


def test_the_captured_signature_is_that_of_train():
    assert list(inspect.signature(train).parameters) == ["model", "learner", "data", "descent", "budget", "seed", "watch", "machine", "looks"]
