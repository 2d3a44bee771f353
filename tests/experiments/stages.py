"""Both stages on pictures as finished runs leave them, with weights that have learned nothing: for tests of what is done with finished stages."""

from pathlib import Path

import torch

from experiments import settings
from experiments.job import plain
from experiments.making import made
from experiments.own_images import finished
from experiments.own_images.first_stage import CONFIG, STATE, restored
from experiments.results import write_json
from latentcomp import checkpoint

FIRST = ("crop=16", "codes=32", "features=32", "multipliers=[1,1,1]", "budget.channels=8", "data.parts.test=0.2", "log.tensorboard=false")  # 4 x 4 codes
SECOND = ("second.width=16", "second.layers=1", "second.heads=2", "log.tensorboard=false")


def first_stage(path: Path, root: Path, *options: str, seed: int = 0) -> Path:
    """The folder of a first stage on the pictures in ``root``."""
    config = settings.composed(["experiment=images/first_stage", "budget=images/smoke", *FIRST, f"data.root={root}", *options])
    torch.manual_seed(seed)
    model, learner = made(config.preset)
    checkpoint.save(path / STATE, {"model": model, "learner": learner})
    write_json(path / CONFIG, plain(config))
    return path


def second_stage(path: Path, first: Path, *options: str) -> Path:
    """The folder of a second stage on it, whose prior is far from uniform."""
    config = settings.composed(["experiment=images/second_stage", "budget=images/smoke", *SECOND, f"first={first}", *options])
    torch.manual_seed(1)
    stage = restored(first)
    model, given = finished.built(config, stage)
    for parameter in model.prior.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.4 * torch.randn_like(parameter))
    checkpoint.save(path / finished.STATE, {"prior": model.prior})
    write_json(path / CONFIG, finished.described(config, stage, given))
    return path
