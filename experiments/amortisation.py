"""The frozen-model table: how near an amortised posterior comes to the exact one, when only the E-step is left.

The model is the one that the digits table's row ``gflownet_em`` learns. Each row trains the same policy network on it, from the same initial weights, for
as many batches: on exact posterior samples (what the network reaches when there is nothing to search for: its amortisation floor) or by an E-step.
"""

import copy
import functools
import math

import torch
from hydra.utils import instantiate

from experiments import settings
from experiments.descent import optimizer
from experiments.execute import build, pictures
from experiments.job import Built, Job, Result, budget, procedure
from experiments.machine import on_device
from experiments.watching.watcher import Shows
from latentcomp.evaluate.exact import exact
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.evaluate.training import Descent, Looks, train
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel


@functools.cache
def frozen_model(seed: int, budget: str) -> LatentVariableModel:
    """The model of the digits table's row ``gflownet_em``, trained; made once a process."""
    data, model, learner, descent, limits = build(settings.row("digits", "gflownet_em", budget, seed))
    train(model, learner, data, descent, limits, seed)
    return model.requires_grad_(False)


@procedure
def execute(job: Job) -> Result:
    """Trains a policy on the frozen model, keeps the state of the best validation KL, and judges it on the test images."""
    config = job.config
    model = copy.deepcopy(frozen_model(config.seed, config.budget.frozen))
    torch.manual_seed(config.seed)
    data, learner = on_device(instantiate(config.data), job.fabric), instantiate(config.learner)
    descent = optimizer(config, learner)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, config.batches)
    descending = Descent(descent, schedule, config.average, math.inf if config.clip is None else config.clip)

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        return {"val_nll": float(exact(model, learner.posterior, data.validation).kl_q_p.mean())}

    training = job.trained(Built(data, model, learner, descending, budget(config)), Looks(look), Shows(data.validation[:64]))
    result, learned = exact(model, learner.posterior, data.test), exact(model, learner.posterior, data.train)
    measures = {
        "kl_q_p": mean(result.kl_q_p),
        "kl_p_q": mean(result.kl_p_q),
        "tv": mean(result.tv, "probability"),
        "train_kl_q_p": mean(learned.kl_q_p),
        "exact_nll": mean(-result.log_px),
        "own_bound": mean(-result.elbo),
        "seconds": Measure(training.seconds, "s"),
    }
    measures |= job.also(model, learner, data)
    return job.records(measures, training.seconds), pictures(model, model, learner, data, training)
