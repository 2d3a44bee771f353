"""Runs of one row of the mixture table, from one random start each, advanced together in one batched computation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments import options
from experiments.job import Progress, Result, plain
from experiments.mixture.batches import Phases
from experiments.mixture.data import truth
from experiments.mixture.learners import ClosedForm
from experiments.mixture.mean_field import MeanField
from experiments.mixture.measures import Numbers, found, measures, numbers
from experiments.mixture.model import Mixtures
from latentcomp.evaluate.exact import log_px
from latentcomp.evaluate.protocol import Measure
from latentcomp.learners.learner import Learner, trainable
from latentcomp.train import fit

SHOWN = 1000  # points that a picture shows


class Parts(NamedTuple):
    """Everything that one row trains: points, the batches of all runs, R models, one learner, its optimisers."""

    x: Tensor
    batches: Phases
    model: Mixtures
    learner: Learner
    optimizers: list[torch.optim.Optimizer]


def build(config: DictConfig, seeds: Sequence[int]) -> Parts:
    """The parts of a row, for one run a seed."""
    config = cast(DictConfig, OmegaConf.merge(config, {"runs": list(seeds)}))
    every_x = instantiate(config.data)
    x = every_x.to(getattr(torch, config.dtype))
    model = Mixtures(instantiate(config.start)(every_x, seeds).to(x))
    learner = instantiate(config.learner).to(x.dtype)
    model.requires_grad_(not isinstance(learner, ClosedForm) and "model" in config.optimizer)
    model.codebook.requires_grad_(False)
    model.likelihood.requires_grad_(False)
    batches = Phases(x, seeds, config.budget.updates, config.e_steps, config.budget.size)
    if isinstance(learner.posterior, MeanField):
        learner.posterior.begin(batches.all.positions, x)
    parts = {"learner": learner, "model": model}
    return Parts(x, batches, model, learner, [instantiate(config.optimizer[name])(trainable(part)) for name, part in parts.items() if name in config.optimizer])


def together(config: DictConfig, row: str, seeds: Sequence[int], progress: Progress = lambda step: None) -> list[Result]:
    """All runs of a row at once: for each seed what ``execute`` gives for it alone.

    Raises:
        RefusedOption: an option that this procedure does not honour.
        NonFiniteLoss: names the step, the learner and the term.
    """
    options.refuse(config)
    parts = build(config, seeds)
    rate = instantiate(config.optimizer.rate)(parts.optimizers[0], len(parts.batches)) if "rate" in config.optimizer else None
    curve, looking, start = [], 0.0, time.perf_counter()
    for step, _ in enumerate(fit(parts.model, parts.learner, parts.batches, parts.optimizers), 1):
        if rate:
            rate.step()
        iteration, rest = divmod(step, config.e_steps + 1)
        if rest == 0 and iteration % config.budget.every == 0:
            look = time.perf_counter()
            curve.append((iteration, -parts.model.by_run(log_px(parts.model, parts.batches.all.x)).double().mean(-1)))
            progress(iteration)
            looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    means, result = parts.model.means.detach(), judged(parts)
    measured = measures(result, means, parts.x)
    return [
        (
            _records(config, row, seed, measured[run] | {"seconds": Measure(seconds, "s")}),
            _pictures([(at, nll[run]) for at, nll in curve], parts.x, means[run]),
        )
        for run, seed in enumerate(seeds)
    ]


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> Result:
    """One run, from the configuration's seed. It takes seconds, so no state is written to ``folder``."""
    return together(config, row, [config.seed], progress)[0]


def judged(parts: Parts) -> Numbers:
    """The exact numbers of every run, at the parameters of the moment."""
    return numbers(parts.model, parts.learner.posterior, parts.batches.all.x)


def _records(config: DictConfig, row: str, seed: int, measured: dict[str, Measure]) -> list[dict[str, Any]]:
    config = cast(DictConfig, OmegaConf.merge(config, {"seed": seed}))
    common = {"source": config.source, "config": plain(config)}
    seconds = measured["seconds"].value
    return [
        {"row": row, "seed": seed, "metric": metric, "expected": config.expected.get(metric)} | measure._asdict() | {"seconds": seconds} | common
        for metric, measure in measured.items()
    ]


def _pictures(curve: list[tuple[int, Tensor]], x: Tensor, means: Tensor) -> dict[str, Any]:
    looks = [{"step": step, "val_nll": float(nll)} for step, nll in curve]
    return {
        "curve": looks,
        "best_step": looks[-1]["step"],
        "points": x[:SHOWN].flatten(1).float(),
        "means": means.float(),
        "truth": truth().float(),
        "found": bool(found(means)),
        "log_px": -looks[-1]["val_nll"],
    }
