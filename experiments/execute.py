"""One run: a configuration in, records and pictures out."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.descent import descent
from experiments.machine import fabric, keep_failure, machine, on_device
from experiments.watching.grids import grid, save
from latentcomp import processes
from latentcomp.data.split import Split
from latentcomp.enumeration import all_codes, enumerable
from latentcomp.evaluate.budget import Log
from latentcomp.evaluate.collapse import Health, detect_collapse, health
from latentcomp.evaluate.protocol import Judgement, Measure, default_prior, judge
from latentcomp.evaluate.training import Budget, Descent, Training, train
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior
from latentcomp.signals import interruptible
from latentcomp.train import NonFiniteLoss

Progress = Callable[[int], None]
USUAL = {"precision": "32-true", "clip": None, "also": None}  # settings that are no part of a configuration as long as they are what they always were


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


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains, judges and draws.

    Args:
        config: the run.
        row: its name in the table.
        progress: called with the step at each look at the validation images; in a run with a folder, with every step.
        folder: of the run, which gets its checkpoints, logs and grids of images, and from which it goes on if it was stopped; or None.

    Returns:
        Records, one for each metric, and pictures as plain tensors.

    Raises:
        NonFiniteLoss: names the step, the learner, the term and the batch, which the folder holds.
        Interrupted: a signal asked the run to end; it has saved. Outside training it ends at once, in training after its step.
    """
    with interruptible(folder is not None):
        return _executed(config, row, progress, folder)


def _executed(config: DictConfig, row: str, progress: Progress, folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    made = fabric(config)
    data, model, learner, descending, budget = build(config)
    data = on_device(data, made)
    how = machine(config, {"row": row, "config": plain(config)}, folder, made, progress)
    watcher = Watcher(model, learner, data, folder, how.log if config.log.pictures else None)

    def watch(step: int, look: dict[str, Any]) -> None:
        watcher(step, look)
        if folder is None:
            progress(step)

    try:
        training = train(model, learner, data, descending, budget, config.seed, watch, how._replace(log=how.log and Watched(how.log, watcher)))
    except NonFiniteLoss as error:
        raise keep_failure(error, model, learner, folder) from None
    judgement = judge(model, learner, data, budget, config.seed, _prior(config), _proposal(config), instantiate(config.also))
    return _records(config, row, training, judgement), pictures(model, judgement.model, learner, data, training)


class Watcher:
    """What happens at each look: its numbers are logged, a collapse is warned of, images are drawn.

    Args:
        model: theta.
        learner: phi.
        data: its validation images are looked at.
        folder: for the images, or None.
        log: for numbers and images; None for neither.
    """

    def __init__(self, model: LatentVariableModel, learner: Learner, data: Split, folder: Path | None, log: Any) -> None:
        self.model, self.learner, self.folder, self.log = model, learner, folder, log
        self.images = data.validation[:64]
        self.best: Health | None = None

    def __call__(self, step: int, look: dict[str, Any]) -> None:
        """A look."""
        if self.folder is None or processes.rank() > 0:
            return
        evaluations = self.model.decoder_evaluations
        now = health(self.model, self.learner.posterior, self.images)
        self.best = detect_collapse(now, self.best)
        self.model.decoder_evaluations = evaluations
        if self.log is not None:
            self.log.look(step, {"val_nll": look["val_nll"], "perplexity": now.perplexity, "used": now.used})
            image = grid(self.model, self.learner, self.images[:8])
            path = self.folder / "images" / f"step-{step:09d}.png"
            try:
                save(image, path)
            except OSError as error:
                warnings.warn(f"{path} could not be written ({error.strerror or error}); the run goes on without it", stacklevel=2)
            self.log.picture(step, "images", image)


class Watched:
    """A log that is saved together with what a watcher has seen, so that a run that goes on warns of a collapse as one that was never stopped.

    Args:
        log: of the run.
        watcher: whose best health is kept.
    """

    def __init__(self, log: Log, watcher: Watcher) -> None:
        self.log, self.watcher = log, watcher

    def __call__(self, step: int, metrics: dict[str, Tensor]) -> None:
        """The log's own."""
        self.log(step, metrics)

    def state_dict(self) -> dict[str, Any]:
        """How far the log is, and the best health, as plain numbers."""
        return {"log": self.log.state_dict(), "best": None if self.watcher.best is None else list(self.watcher.best)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to it."""
        self.log.load_state_dict(state["log"])
        self.watcher.best = None if state["best"] is None else Health(*state["best"])


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
    kept = {str(key): value for key, value in resolved.items() if key not in ("outputs", "expected", "source", "machine", "log")}
    return {key: value for key, value in kept.items() if key not in USUAL or value != USUAL[key]}


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
