"""The optimiser of a run: its parameter groups, their learning rates, and how these change."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from latentcomp.evaluate.training import Descent
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel

GROUPS = ("theta", "phi", "log_z")


class Drop(NamedTuple):
    """The full rate, and a part of it from a share of the run on: the published code's schedule."""

    at: float = 0.75
    factor: float = 0.25

    def __call__(self, share: float) -> float:
        """The factor at a share of the run."""
        return self.factor if share >= self.at else 1.0


class Cosine(NamedTuple):
    """A linear rise, then half a cosine down to a part of the full rate."""

    warmup: float = 0.02
    end: float = 0.05

    def __call__(self, share: float) -> float:
        """The factor at a share of the run."""
        if share < self.warmup:
            return share / self.warmup
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup))) / 2


def groups(model: nn.Module | None, learner: Learner) -> dict[str, list[nn.Parameter]]:
    """The parameters that descend, by group: theta, phi, and log Z (of x or of every prefix: a flow), which all others of phi wait for."""
    named = [(name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad]
    own = {id(parameter) for _, parameter in named}
    theta = [] if model is None else [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in own]
    normalises = {name: ".log_z." in name or ".flow." in name for name, _ in named}
    phi, log_z = ([parameter for name, parameter in named if normalises[name] is kind] for kind in (False, True))
    return {"theta": theta, "phi": phi, "log_z": log_z}


def optimizer(config: DictConfig, learner: Learner, model: LatentVariableModel | None = None) -> torch.optim.Optimizer:
    """The optimiser of phi, and of theta where a model is given; each group at its multiple (``rates``) of the learning rate."""
    return instantiate(config.optimizer)(
        [{"params": members, "lr": config.optimizer.lr * config.rates[name], "name": name} for name, members in groups(model, learner).items() if members]
    )


def descent(config: DictConfig, learner: Learner, model: LatentVariableModel) -> Descent:
    """Optimiser, schedule and weight average of a run over ``batches`` batches."""
    descending = optimizer(config, learner, model)
    factors = {name: instantiate(config.schedule.get(name)) for name in GROUPS} if config.schedule else {}
    clip = math.inf if config.clip is None else config.clip
    if not any(factors.values()):
        return Descent(descending, None, config.average, clip)
    functions = [_of_step(factors[group["name"]], config.batches) for group in descending.param_groups]
    return Descent(descending, torch.optim.lr_scheduler.LambdaLR(descending, functions), config.average, clip)


def _of_step(factor: Callable[[float], float] | None, batches: int) -> Callable[[int], float]:
    return lambda step: 1.0 if factor is None else factor(step / batches)
