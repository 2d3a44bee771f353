"""One row: an estimator's bias and noise on a frozen model, for posteriors of several entropies and several numbers of samples.

Both are relative to the size of the gradient that is wanted: with g an estimate of g* and means over images,

    bias = sqrt(mean |E g - g*|^2 / mean |g*|^2),   noise = sqrt(mean tr Cov g / mean |g*|^2),   error = sqrt(bias^2 + noise^2).
"""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments import options, settings
from experiments.execute import build
from experiments.gradients.estimators import Estimator
from experiments.gradients.problem import Problem, problem
from experiments.job import Progress, Result, plain
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import train
from latentcomp.model import LatentVariableModel


class Error(NamedTuple):
    """Of an estimate, as shares of the wanted gradient's size."""

    bias: float
    noise: float

    @property
    def total(self) -> float:
        """The root of the mean square."""
        return float((self.bias**2 + self.noise**2) ** 0.5)


def error(estimator: Estimator, at: Problem, samples: int) -> Error:
    """The estimator's, with S samples for each image."""
    wanted = at.wanted(estimator.aim)
    size = wanted.square().sum(-1).mean()
    moments = estimator.moments(at, samples)
    bias = ((moments.mean - wanted).square().sum(-1) - moments.uncertainty).mean().clamp_min(0)
    return Error(float((bias / size).sqrt()), float((moments.variance.clamp_min(0).mean() / size).sqrt()))


@functools.cache
def frozen(seed: int, sites: int, codes: int, updates: int) -> tuple[LatentVariableModel, Tensor]:
    """The digits table's GFlowNet-EM with fewer codes, trained and frozen, and the test images; made once a process."""
    sizes = (f"sites={sites}", f"codes={codes}", f"budget.updates={updates}")
    data, model, learner, descent, limits = build(settings.row("digits", "gflownet_em", "cpu", seed, sizes))
    train(model, learner, data, descent, limits, seed)
    return model.double().requires_grad_(False), data.test.double()


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> Result:
    """The numbers of one estimator. Nothing of its own is trained, so no state is written to ``folder``.

    Raises:
        RefusedOption: an option that this procedure does not honour.
    """
    options.refuse(config)
    estimator = instantiate(config.estimator)
    model, x = frozen(config.seed, config.sites, config.codes, config.budget.updates)
    errors: dict[tuple[str, int], Error] = {}
    for level, entropy in config.entropies.items():
        at = problem(model, x[: config.budget.images], entropy, config.seed)
        errors |= {(level, samples): error(estimator, at, samples) for samples in config.samples}
    progress(config.batches)
    measures = {f"{kind}_{s}_{level}": Measure(getattr(e, kind), "share") for (level, s), e in errors.items() for kind in ("bias", "noise", "total")}
    cost = estimator.cost(4)
    measures |= {"forward": Measure(cost.forward, "images"), "backward": Measure(cost.backward, "images")}
    common = {"expected": None, "source": None, "seconds": 0.0, "config": plain(config)}
    records = [{"row": row, "seed": config.seed, "metric": metric} | measure._asdict() | common for metric, measure in measures.items()]
    curve = [{"step": samples, "val_nll": errors["medium", samples].total} for samples in config.samples]
    table = torch.tensor([[errors[level, samples] for samples in config.samples] for level in config.entropies])
    return records, {"curve": curve, "best_step": curve[-1]["step"], "errors": table, "samples": torch.tensor(list(config.samples))}
