"""A run of any procedure that trains may be stopped or killed, and ends as if it had not been: records, curve, log and states."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_method
from omegaconf import DictConfig

from experiments import settings
from experiments.execute import build
from latentcomp.model import LatentVariableModel
from latentcomp.signals import Interrupted
from tests import small_mnist
from tests.faults.victims import forked, waited
from tests.pictures import folder as drawn

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.filterwarnings("ignore::latentcomp.evaluate.collapse.CollapseWarning")]
SHORT = ("budget.updates=5", "budget.every=3", "log.tensorboard=false")
THUMBNAILS = "preset.distance={_target_: experiments.first_stage.Thumbnails}"
PICTURES = ("experiment=images/first_stage", "budget=images/smoke", "data.parts.test=0.2", "data.view.crops=4", "crop=16", "codes=16")
TINY = ("width=8", "features=32", "multipliers=[1,1,1]", "preset.size.critic=8", "critic_start=2", "average=0.9", "clip=10.0", "watched=psnr")
FROZEN = ("sites=2", "codes=4")
ROWS = {
    "first_stage": ("experiment=vqgan/modern", "budget=vqgan/smoke", "preset.start=2"),
    "second_stage": ("experiment=second_stage/masked", "budget=second_stage/smoke", "budget.size=20"),
    "collapse": ("experiment=collapse/modern", "budget=collapse/smoke", "codes=32", "budget.validation=20", "budget.test=4", "budget.look_images=4"),
    "amortisation": ("experiment=amortisation/log_variance", "budget=amortisation/smoke", "budget.size=10", *FROZEN),
    "taming_prior": ("experiment=taming_orderings/z_curve", "budget=taming_orderings/smoke", "average=0.9"),
    "taming_reconstruction": ("experiment=taming_geometries/rotation", "budget=taming_reconstruction/smoke"),
    "own_images": (*PICTURES, "preset=modern", THUMBNAILS, *TINY),
}


def config(name: str, place: Path) -> DictConfig:
    """Of a short run."""
    where = {"collapse": lambda: [f"data.root={small_mnist.write(place)}"], "own_images": lambda: [f"data.root={drawn(place / 'pictures', 8)}"]}
    return settings.composed([*ROWS[name], *SHORT, *where.get(name, list)()])


@pytest.fixture(autouse=True)
def frozen(monkeypatch):
    """The models that other rows train first need not be good here."""

    def model(seed: int, budget: str) -> LatentVariableModel:
        return build(settings.row("digits", "gflownet_em", "smoke", seed, FROZEN)).model.requires_grad_(False)

    monkeypatch.setattr("experiments.amortisation.frozen_model", model)


def carried_out(composed: DictConfig, folder: Path, progress: Any = lambda step: None) -> tuple[Any, ...]:
    """What a run comes to: its records' values and its curve, without times, its log, and its pictures."""
    records, pictures = get_method(composed.procedure)(composed, "row", progress, folder)
    values = {record["metric"]: record["value"] for record in records if record["metric"] != "seconds"}
    curve = [{key: value for key, value in look.items() if key != "seconds"} for look in pictures.pop("curve")]
    logs = sorted([*(folder / "states").glob("*/metrics.csv"), *folder.parent.glob("*/*/states/*/metrics.csv")])  # its own, and those of stages that rows share
    assert logs
    return values, curve, b"".join(log.read_bytes() for log in logs), pictures


def assert_same(mine: tuple[Any, ...], whole: tuple[Any, ...]) -> None:
    """Bit for bit."""
    assert repr(mine[:2]) == repr(whole[:2]), "repr, since nan is nan here"
    assert mine[2] == whole[2]
    tensors = [{key: value for key, value in pictures.items() if isinstance(value, torch.Tensor)} for pictures in (mine[3], whole[3])]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def stopping(at: int, number: int) -> Any:
    """Sends the signal to this process at a step."""
    return lambda step: os.kill(os.getpid(), number) if step == at else None


SLOW = ("first_stage", "second_stage", "taming_prior", "taming_reconstruction")  # seconds each, on the same path as the others


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ROWS])
def test_a_stopped_run_exits_with_75_and_ends_where_it_would_have(name, tmp_path):
    composed = config(name, tmp_path)
    whole, stopped, steps = carried_out(composed, tmp_path / "whole" / "row-0"), tmp_path / "stopped" / "row-0", []
    with pytest.raises(Interrupted, match="SIGTERM came after 4 of 5 batches; saved") as caught:
        carried_out(composed, stopped, stopping(4, signal.SIGTERM))
    assert caught.value.code == 75
    assert_same(carried_out(composed, stopped, steps.append), whole)
    assert steps == [5]


def test_a_second_stage_on_pictures_goes_on_and_begins_anew_on_other_codes(tmp_path):
    first = config("own_images", tmp_path)
    carried_out(first, tmp_path / "first")
    options = (
        "experiment=images/second_stage",
        "budget=images/smoke",
        "second.width=16",
        "second.layers=1",
        "second.heads=2",
        "average=0.9",
        "objective.keep=0.9",
    )
    composed = settings.composed([*options, *SHORT, f"first={tmp_path / 'first'}", "clip=1.0"])
    whole, steps = carried_out(composed, tmp_path / "whole"), []
    with pytest.raises(Interrupted, match="SIGTERM came after 4 of 5 batches; saved"):
        carried_out(composed, tmp_path / "stopped", stopping(4, signal.SIGTERM))
    assert_same(carried_out(composed, tmp_path / "stopped", steps.append), whole)
    first.seed = 1
    get_method(first.procedure)(first, "row", folder=tmp_path / "first")
    get_method(composed.procedure)(composed, "row", steps.append, tmp_path / "stopped")
    assert steps == [5, 1, 2, 3, 4, 5], "its checkpoints were of another first stage's codes"


def test_a_killed_run_on_pictures_ends_where_it_would_have(tmp_path):
    composed = config("own_images", tmp_path)
    composed.machine.save_every = 1
    whole, steps = carried_out(composed, tmp_path / "whole"), []
    assert waited(forked(lambda: carried_out(composed, tmp_path / "killed", stopping(4, signal.SIGKILL)))) == -signal.SIGKILL
    assert_same(carried_out(composed, tmp_path / "killed", steps.append), whole)
    assert steps[-1] == 5
    assert steps[0] > 1, "it goes on"
    whole_state, state = (torch.load(tmp_path / place / "first_stage.pt", weights_only=True) for place in ("whole", "killed"))
    tensors = [(part, key) for part in whole_state for key, value in whole_state[part].items() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(torch.equal(state[part][key], whole_state[part][key]) for part, key in tensors)
