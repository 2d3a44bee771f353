"""Stages that rows share: trained once, as a run of their own, which any row takes up where another left it."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from experiments import options
from experiments.job import Built, Job
from experiments.taming.shared import DONE, Stage, shared
from experiments.taming.vqgan import Nearest, Preset, vqgan
from latentcomp.codebook import EMACodebook
from latentcomp.data.batches import Batches
from latentcomp.evaluate.training import Budget, Descent, Looks, Training
from latentcomp.likelihoods import Laplace
from latentcomp.signals import Interrupted
from latentcomp.taming.presets import Size

X = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
TRAINING = Training([{"step": 4, "seconds": 1.5}], 4, 0, 1.5)


class Data:
    """Of the tests."""

    def batches(self, size: int, updates: int, seed: int = 0) -> Batches:
        return Batches(X, size, updates, seed)


def job(place: Path | None, row: str = "row", seed: int = 0) -> Job:
    config = OmegaConf.create({"seed": seed, "precision": "32-true", "machine": options.DEFAULTS.machine, "log": options.DEFAULTS.log})
    config.log.tensorboard = False
    return Job(config, row, lambda step: None, place and place / f"{row}-{seed}", None)


def preset() -> Preset:
    torch.manual_seed(0)
    size = Size((1, 8, 8), codes=8, width=4, features=8, channels=8, multipliers=(1, 1), blocks=1, group=4)
    return vqgan(size, EMACodebook(8, 4, 0.1), Nearest(), Laplace(0.1))


def brought(on: Job, look=lambda *_: {}, calls: list | None = None) -> tuple[Preset, Training]:
    """A small first stage, by whatever way."""
    model, learner = made = preset()

    def train(own: Job) -> Training:
        if calls is not None:
            calls.append(own.folder)
        optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], 1e-2)
        return own.trained(Built(Data(), model, learner, Descent(optimizer, None, 0.5), Budget(8, 10, 2)), Looks(look, None))

    return made, shared(on, Stage("first_stages", {"width": 4}, {"model": model, "learner": learner}), train)


def weights(made: Preset) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value for part in ("model", "learner") for name, value in getattr(made, part).state_dict().items() if torch.is_tensor(value)}


def assert_same(a: Preset, b: Preset) -> None:
    assert all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_rows_that_want_the_same_stage_share_it(tmp_path):
    calls: list[Path] = []
    first, training = brought(job(tmp_path, "a"), calls=calls)
    again, loaded = brought(job(tmp_path, "b"), calls=calls)
    assert len(calls) == 1
    assert_same(first, again)
    assert loaded == training
    assert [look["step"] for look in loaded.curve] == [2, 4, 6, 8]
    assert not again.model.training
    assert not again.learner.training
    brought(job(tmp_path, "a", seed=1), calls=calls)
    assert len(set(calls)) == 2, "another seed is another stage"
    assert all(folder.parent == tmp_path / "first_stages" for folder in calls)
    assert sorted(path.name for path in calls[0].iterdir()) == sorted([DONE, "lock", "states"])
    left = {path.name for path in calls[0].glob("states/*/*")}
    assert left == {"metrics.csv", "lock"}, "the log stays, the checkpoints of the way there are gone"
    alone, _ = brought(job(None))
    assert_same(first, alone)


def test_another_row_takes_a_stopped_stage_up_and_ends_bit_for_bit(tmp_path):
    whole, training = brought(job(tmp_path / "whole"))
    with pytest.raises(Interrupted, match="SIGTERM came after 2 of 8 batches; saved"):
        brought(job(tmp_path / "stopped", "a"), lambda *_: os.kill(os.getpid(), signal.SIGTERM) or {})
    seen: list[int] = []
    found, resumed = brought(job(tmp_path / "stopped", "b"), lambda *_: seen.append(1) or {})
    assert len(seen) == 3, "three looks were left"
    assert_same(whole, found)
    times = ("seconds",)
    assert [{k: v for k, v in look.items() if k not in times} for look in resumed.curve] == [
        {k: v for k, v in look.items() if k not in times} for look in training.curve
    ]
    logs = [next((tmp_path / place).glob("first_stages/*/states/*/metrics.csv")).read_bytes() for place in ("whole", "stopped")]
    assert logs[0] == logs[1]


def test_rows_side_by_side_wait_for_each_other(tmp_path):
    calls, networks = [], {row: nn.Linear(2, 2) for row in "ab"}

    def train(network: nn.Linear) -> Training:
        calls.append(network)
        time.sleep(0.3)
        network.weight.data.fill_(7.0)
        return TRAINING

    def of(row: str) -> Training:
        return shared(job(tmp_path, row), Stage("priors", {}, {"network": networks[row]}), lambda own: train(networks[row]))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(of, networks)) == [TRAINING] * 2
    assert len(calls) == 1
    assert torch.equal(networks["a"].weight, networks["b"].weight)
