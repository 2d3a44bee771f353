"""One run: a configuration in, records and pictures out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from latentcomp import checkpoint
from latentcomp.data.split import Split
from latentcomp.enumeration import all_codes, enumerable
from latentcomp.evaluate.protocol import Budget, Judgement, Measure, Training, judge, train
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact

Progress = Callable[[int], None]


def build(config: DictConfig) -> tuple[Split, LatentVariableModel, Learner, torch.optim.Optimizer, Budget]:
    """Data, model, learner, optimiser and budget of a run, made under its seed."""
    torch.manual_seed(config.seed)
    data, model, learner = instantiate(config.data), instantiate(config.model), instantiate(config.learner)
    return data, model, learner, optimizer(config, model, learner), Budget(**{key: value for key, value in config.budget.items() if key in Budget._fields})


def optimizer(config: DictConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters; log Z, one number that all others wait for, at ``log_z_rate`` times the learning rate where a row says so."""
    named = dict(pair for module in modules for pair in module.named_parameters(prefix=str(id(module))))
    log_z = [parameter for name, parameter in named.items() if ".log_z." in name]
    others = [parameter for name, parameter in named.items() if ".log_z." not in name]
    groups = [{"params": others}, {"params": log_z, "lr": config.optimizer.lr * config.get("log_z_rate", 1)}]
    return instantiate(config.optimizer)([group for group in groups if group["params"]])


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
    data, model, learner, descent, budget = build(config)

    def watch(step: int, _: dict[str, float]) -> None:
        if states is not None:
            checkpoint.save(states, {"model": model, "learner": learner, "optimizer": descent})
        progress(step)

    training = train(model, learner, data, descent, budget, config.seed, watch)
    judgement = judge(model, learner, data, budget, config.seed)
    return _records(config, row, training, judgement), pictures(model, judgement.model, learner, data, training)


def plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, what is resolved included; where results go and what they are compared with is no part of it."""
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items() if key not in ("outputs", "expected", "source")}


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
    shown = data.test[:8]
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
