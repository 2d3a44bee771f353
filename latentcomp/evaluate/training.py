"""How every learner is trained and selected: for a number of batches, with looks at validation images, of which the best is kept."""

import copy
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentcomp.data.split import Split
from latentcomp.enumeration import enumerable
from latentcomp.evaluate import importance
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.exact import log_px as exact_log_px
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior
from latentcomp.train import fit


class Budget(NamedTuple):
    """What every learner is given.

    Attributes:
        updates: batches to train on.
        size: B.
        every: batches between two looks at the validation images.
        prior_updates: updates of the second-stage prior.
        proposal_updates: updates of the importance-sampling proposal (only where codes cannot be enumerated, as all that follow).
        samples: M of importance sampling.
        own_samples: M with the learner's own posterior in place of the fitted proposal.
        look_images: validation images that a look takes, the first ones; 0 for all.
        look_samples: M of a look.
        dreams: images that the bounds of log p(x) are certified on.
    """

    updates: int = 500
    size: int = 100
    every: int = 50
    prior_updates: int = 300
    proposal_updates: int = 1000
    samples: int = 1000
    own_samples: int = 100
    look_images: int = 0
    look_samples: int = 100
    dreams: int = 100


class Training(NamedTuple):
    """What training was like.

    Attributes:
        curve: one dictionary for each look: step, val_nll (nats), seconds of training until then, and the metrics of the last step.
        best_step: the look that was kept.
        decoder_evaluations: images decoded in training.
        seconds: wall-clock time of training, without the looks.
    """

    curve: list[dict[str, float]]
    best_step: int
    decoder_evaluations: int
    seconds: float


class Descent(NamedTuple):
    """How parameters descend.

    Attributes:
        optimizer: over theta and phi.
        scheduler: of its learning rates, moved once a batch; or None.
        average: the decay of the weight average that is looked at and kept; 0 for none.
    """

    optimizer: Optimizer
    scheduler: LRScheduler | None = None
    average: float = 0.0


Watch = Callable[[int, dict[str, float]], None]


def train(
    model: LatentVariableModel, learner: Learner, data: Split, descent: Descent | Optimizer, budget: Budget, seed: int = 0, watch: Watch | None = None
) -> Training:
    """Trains within the budget and leaves model and learner in the state of the best validation look.

    Args:
        model: theta.
        learner: phi.
        data: its validation images choose the state.
        descent: an optimiser over both, with or without a schedule and a weight average.
        budget: how long, and how often to look.
        seed: of the order of the data and of all noise.
        watch: called after each look with the step and the look's numbers.

    Raises:
        NonFiniteLoss: names the step, the learner and the term.
    """
    model.check(data.validation)
    descent = descent if isinstance(descent, Descent) else Descent(descent)
    learner.seed = seed
    average = WeightAverage(descent.average, model, learner)
    curve: list[dict[str, float]] = []
    best, kept, best_step, looking = math.inf, _state(model, learner), 0, 0.0
    start, decoded = time.perf_counter(), model.decoder_evaluations
    _mode(True, model, learner)
    for step, metrics in enumerate(fit(model, learner, data.batches(budget.size, budget.updates, seed), descent.optimizer), 1):
        if descent.scheduler is not None:
            descent.scheduler.step()
        average.update()
        if step % budget.every and step != budget.updates:
            continue
        look, evaluations = time.perf_counter(), model.decoder_evaluations
        _mode(False, model, learner)
        with average.applied():
            nll = validation_nll(model, learner.posterior, data.validation, budget)
            if nll < best:
                best, kept, best_step = nll, _state(model, learner), step
        _mode(True, model, learner)
        seconds = look - start - looking
        curve.append({"step": step, "val_nll": nll, "seconds": seconds} | {key: float(value) for key, value in metrics.items()})
        if watch:
            watch(step, curve[-1])
        model.decoder_evaluations = evaluations
        looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    model.load_state_dict(kept[0])
    learner.load_state_dict(kept[1])
    _mode(False, model, learner)
    return Training(curve, best_step, model.decoder_evaluations - decoded, seconds)


def _mode(training: bool, *modules: torch.nn.Module) -> None:
    for module in modules:
        module.train(training)


def _state(model: LatentVariableModel, learner: Learner) -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(learner.state_dict())


@torch.no_grad()
def validation_nll(model: LatentVariableModel, posterior: Posterior, x: Tensor, budget: Budget) -> float:
    """-mean log p(x) under the prior the model is trained with: exact, or importance-weighted with the learner's own posterior."""
    x = x[: budget.look_images or len(x)]
    if enumerable(model.cardinalities, len(x)):
        return -float(exact_log_px(model, x).mean())
    return -float(importance.log_px(model, posterior, x, samples=min(budget.look_samples, budget.samples)).log_px.mean())
