"""The usual procedure: a configuration in, records and pictures out."""

from collections.abc import Callable
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments.descent import descent
from experiments.job import Built, Job, Progress, Result, budget, plain, procedure
from experiments.machine import on_device
from experiments.watching.grids import grid
from experiments.watching.watcher import Shows
from latentcomp.data.split import Split
from latentcomp.enumeration import all_codes, enumerable
from latentcomp.evaluate.protocol import Measure, default_prior, judge
from latentcomp.evaluate.training import Training
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior

__all__ = ["Built", "Progress", "build", "execute", "pictures", "plain"]


def build(config: DictConfig) -> Built[Split]:
    """Data, model, learner, descent and budget of a run, made under its seed."""
    torch.manual_seed(config.seed)
    data, model, learner = instantiate(config.data), instantiate(config.model), instantiate(config.learner)
    return Built(data, model, learner, descent(config, learner, model), budget(config))


@procedure
def execute(job: Job) -> Result:
    """Trains, judges and draws."""
    config, made = job.config, build(job.config)
    data, model, learner = on_device(made.data, job.fabric), made.model, made.learner
    shown = data.validation[:64]
    training = job.trained(made._replace(data=data), shows=Shows(shown, lambda: grid(model, learner, shown[:8])))
    judgement = judge(model, learner, data, made.budget, config.seed, _prior(config), _proposal(config), instantiate(config.also))
    measures = judgement.measures | {
        "decoder_evaluations": Measure(training.decoder_evaluations, "images"),
        "seconds": Measure(training.seconds, "s"),
    }
    return job.records(measures, training.seconds), pictures(model, judgement.model, learner, data, training)


def _prior(config: DictConfig) -> Callable[[LatentVariableModel], Prior]:
    """What makes the second stage's prior."""
    return default_prior if config.prior is None else lambda model: instantiate(config.prior)


def _proposal(config: DictConfig) -> Callable[[], Posterior] | None:
    """What makes the proposal of importance sampling."""
    return None if config.proposal is None else lambda: instantiate(config.proposal)


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
