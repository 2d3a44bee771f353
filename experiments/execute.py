"""One run: a configuration in, records and pictures out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.descent import descent
from latentcomp import checkpoint
from latentcomp.data.split import Split
from latentcomp.enumeration import all_codes, enumerable
from latentcomp.evaluate.protocol import Judgement, Measure, default_prior, judge
from latentcomp.evaluate.training import Budget, Descent, Training, train
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior

Progress = Callable[[int], None]


class Built(NamedTuple):
    """What a run is made of."""

    data: Split
    model: LatentVariableModel
    learner: Learner
    descent: Descent
    budget: Budget


def build(config: DictConfig) -> Built:
    """Data, model, learner, descent and budget of a run, made under its seed."""
    torch.manual_seed(config.seed)
    data, model, learner = instantiate(config.data), instantiate(config.model), instantiate(config.learner)
    limits = {key: value for key, value in config.budget.items() if key in Budget._fields} | {"updates": config.batches}
    return Built(data, model, learner, descent(config, learner, model), Budget(**limits))


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, states: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains, judges and draws.

    Args:
        config: the run.
        row: its name in the table.
        progress: called with the step at each look at the validation images.
        states: a file that each look writes the state to, or None.

    Returns:
        Records, one for each metric, and pictures as plain tensors.

    Raises:
        NonFiniteLoss: names the step, the learner and the term; the file holds the last good state.
    """
    data, model, learner, descending, budget = build(config)

    def watch(step: int, _: dict[str, float]) -> None:
        if states is not None:
            checkpoint.save(states, {"model": model, "learner": learner, "optimizer": descending.optimizer})
        progress(step)

    training = train(model, learner, data, descending, budget, config.seed, watch)
    judgement = judge(model, learner, data, budget, config.seed, _prior(config), _proposal(config), instantiate(config.also))
    return _records(config, row, training, judgement), pictures(model, judgement.model, learner, data, training)


def _prior(config: DictConfig) -> Callable[[LatentVariableModel], Prior]:
    """What makes the second stage's prior."""
    return default_prior if config.prior is None else lambda model: instantiate(config.prior)


def _proposal(config: DictConfig) -> Callable[[], Posterior] | None:
    """What makes the proposal of importance sampling."""
    return None if config.proposal is None else lambda: instantiate(config.proposal)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, what is resolved included; where results go and what they are compared with is no part of it."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    kept = {str(key): value for key, value in resolved.items() if key not in ("outputs", "expected", "source")}
    return {key: value for key, value in kept.items() if key != "also" or value is not None}  # a setting that is younger than some results


def _records(config: DictConfig, row: str, training: Training, judgement: Judgement) -> list[dict[str, Any]]:
    measures = judgement.measures | {
        "decoder_evaluations": Measure(training.decoder_evaluations, "images"),
        "seconds": Measure(training.seconds, "s"),
    }
    common = {"seconds": training.seconds, "source": config.source, "config": plain(config)}
    return [
        {"row": row, "seed": config.seed, "metric": metric, "expected": config.expected.get(metric)} | measure._asdict() | common
        for metric, measure in measures.items()
    ]


@torch.no_grad()
def pictures(model: LatentVariableModel, fitted: LatentVariableModel, learner: Learner, data: Split, training: Training) -> dict[str, Any]:
    """What a report shows of a run: its curve, reconstructions, samples of the fitted prior, code usage, and posteriors where they can be enumerated."""
    shown = data.test[:8].clone()  # of a view, the whole data set would be stored
    samples = fitted.prior().sample((16,), Noise(0, 0, torch.arange(16, device=shown.device)))
    codes = learner.posterior(model, data.test).sample((8,), Noise(0, 1, torch.arange(len(data.test), device=shown.device)))
    shows: dict[str, Any] = {
        "curve": training.curve,
        "best_step": training.best_step,
        "images": shown,
        "reconstructions": model.decode(model.codebook(learner.posterior(model, shown).mode)).mean,
        "samples": fitted.decode(fitted.codebook(samples)).mean,
        "usage": usage(codes, model.codebook.codes).counts,
    }
    return shows | ({"posterior": _posterior(model, learner, shown[:4])} if enumerable(model.cardinalities) else {})


def _posterior(model: LatentVariableModel, learner: Learner, x: Tensor) -> dict[str, Tensor]:
    """The ten most probable codes of a few images, with their exact probability and the learner's."""
    p, q = Exact()(model, x).table().exp(), learner.posterior(model, x).table().exp()
    top = p.topk(min(10, p.shape[-1]), -1)
    return {"codes": all_codes(model.cardinalities, x.device)[top.indices], "p": top.values, "q": q.gather(-1, top.indices), "images": x}
