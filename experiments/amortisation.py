"""The frozen-model table: how near an amortised posterior comes to the exact one, when only the E-step is left.

The model is the one that the digits table's row ``gflownet_em`` learns. Each row trains the same policy network on it, from the same initial weights, for
as many batches: on exact posterior samples (what the network reaches when there is nothing to search for: its amortisation floor) or by an E-step.
"""

import copy
import functools
import time
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import settings
from experiments.descent import optimizer
from experiments.execute import Progress, build, pictures, plain
from latentcomp import checkpoint
from latentcomp.evaluate.exact import exact
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.evaluate.training import Training, train
from latentcomp.model import LatentVariableModel
from latentcomp.train import fit


@functools.cache
def frozen_model(seed: int, budget: str) -> LatentVariableModel:
    """The model of the digits table's row ``gflownet_em``, trained; made once a process."""
    data, model, learner, descent, limits = build(settings.row("digits", "gflownet_em", budget, seed))
    train(model, learner, data, descent, limits, seed)
    return model.requires_grad_(False)


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains a policy on the frozen model, keeps the state of the best validation KL, and judges it on the test images."""
    model = frozen_model(config.seed, config.budget.frozen)
    torch.manual_seed(config.seed)
    data, learner = instantiate(config.data), instantiate(config.learner)
    learner.seed = config.seed
    descent = optimizer(config, learner)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, config.budget.updates)
    curve, best, kept, looking, start = [], float("inf"), learner.state_dict(), 0.0, time.perf_counter()
    for step, _ in enumerate(fit(model, learner, data.batches(config.budget.size, config.budget.updates, config.seed), descent), 1):
        schedule.step()
        if step % config.budget.every == 0:
            look = time.perf_counter()
            kl = float(exact(model, learner.posterior, data.validation).kl_q_p.mean())
            curve.append({"step": step, "val_nll": kl})
            if kl < best:
                best, kept = kl, copy.deepcopy(learner.state_dict())
            if folder is not None:
                checkpoint.save(folder / "last.pt", {"learner": learner, "optimizer": descent})
            progress(step)
            looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    learner.load_state_dict(kept)
    result, learned = exact(model, learner.posterior, data.test), exact(model, learner.posterior, data.train)
    measures = {
        "kl_q_p": mean(result.kl_q_p),
        "kl_p_q": mean(result.kl_p_q),
        "tv": mean(result.tv, "probability"),
        "train_kl_q_p": mean(learned.kl_q_p),
        "exact_nll": mean(-result.log_px),
        "own_bound": mean(-result.elbo),
        "seconds": Measure(seconds, "s"),
    }
    common = {"expected": None, "source": None, "config": plain(config)}
    records = [{"row": row, "seed": config.seed, "metric": metric} | measure._asdict() | {"seconds": seconds} | common for metric, measure in measures.items()]
    best_step = int(min(curve, key=lambda at: at["val_nll"])["step"])
    return records, pictures(model, model, learner, data, Training(curve, best_step, 0, seconds))
