"""The second stage's table: priors that learn the codes of one frozen first stage, judged by their negative log-likelihood of the test images' codes.

The first stage is the digits table's row ``vq_ema`` with the row's own numbers of sites and codes; all rows of a seed share it. A masked prior has no
likelihood, only a bound: its numbers carry that note.
"""

import copy
import functools
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from experiments import settings
from experiments.descent import descent
from experiments.execute import Progress, build, pictures, plain
from latentcomp import checkpoint
from latentcomp.batch import Batch
from latentcomp.codes.masked import MaskedCodes
from latentcomp.data.split import Split
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import Training, train
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior
from latentcomp.train import fit

BOUND = "an upper bound: the mean over orders of the sites, estimated without bias"


class FirstStage(NamedTuple):
    """A trained first stage and its data."""

    model: LatentVariableModel
    posterior: Posterior
    data: Split


@functools.cache
def first_stage(seed: int, budget: str, sites: int, codes: int) -> FirstStage:
    """The digits table's row ``vq_ema`` with so many sites and codes; made once a process. Its looks take few samples, for its posterior has one code."""
    data, model, learner, descending, limits = build(settings.row("digits", "vq_ema", budget, seed, (f"sites={sites}", f"codes={codes}")))
    train(model, learner, data, descending, limits._replace(look_samples=2), seed)
    return FirstStage(model, learner.posterior, data)


@torch.no_grad()
def codes_nll(prior: Prior, z: Tensor, draws: int = 8, seed: int = 0) -> Tensor:
    """-log p(z) of each row in nats; of a masked prior, the bound's estimate from so many draws."""
    p = prior()
    if not isinstance(p, MaskedCodes):
        return -p.log_prob(z)
    return -p.bound(z.expand(draws, *z.shape), Noise(seed, 0, torch.arange(len(z), device=z.device))).mean(0)


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Learns the prior, keeps the state of the best validation NLL, and judges it on the codes of the test images."""
    first = first_stage(config.seed, config.budget.first, config.sites, config.codes)
    torch.manual_seed(config.seed)
    prior = instantiate(config.prior)
    model, learner = second_stage(copy.deepcopy(first.model), prior), SecondStage(copy.deepcopy(first.posterior), instantiate(config.objective))
    learner.seed = config.seed
    descending = descent(config, learner, model)
    average = WeightAverage(descending.average, model, learner)
    train_z, validation_z, test_z = (learner.codes(model, Batch(x)) for x in (first.data.train, first.data.validation, first.data.test))
    curve: list[dict[str, float]] = []
    best, kept, looking, start = math.inf, prior.state_dict(), 0.0, time.perf_counter()
    prior.train()
    for step, metrics in enumerate(fit(model, learner, first.data.batches(config.budget.size, config.batches, config.seed), descending.optimizer), 1):
        if descending.scheduler is not None:
            descending.scheduler.step()
        average.update()
        if step % config.budget.every == 0 or step == config.batches:
            look = time.perf_counter()
            prior.eval()
            with average.applied():
                nll = float(codes_nll(prior, validation_z).mean())
                if nll < best:
                    best, kept = nll, copy.deepcopy(prior.state_dict())
            prior.train()
            curve.append({"step": step, "val_nll": nll, "seconds": look - start - looking} | {key: float(value) for key, value in metrics.items()})
            if folder is not None:
                checkpoint.save(folder / "last.pt", {"model": model, "learner": learner, "optimizer": descending.optimizer})
            progress(step)
            looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    prior.load_state_dict(kept)
    prior.eval()
    measures = _measures(prior, train_z, test_z) | {"seconds": Measure(seconds, "s")}
    common = {"seconds": seconds, "source": config.source, "config": plain(config)}
    records = [
        {"row": row, "seed": config.seed, "metric": metric, "expected": config.expected.get(metric)} | measure._asdict() | common
        for metric, measure in measures.items()
    ]
    best_step = int(min(curve, key=lambda at: at["val_nll"])["step"])
    return records, pictures(model, model, learner, first.data, Training(curve, best_step, 0, seconds))


def _measures(prior: Prior, train_z: Tensor, test_z: Tensor) -> dict[str, Measure]:
    reason, sites = BOUND if isinstance(prior(), MaskedCodes) else None, test_z.shape[1]
    nll, learned = codes_nll(prior, test_z).double(), codes_nll(prior, train_z, draws=1).double()
    stderr = float(nll.std() / math.sqrt(len(nll)))
    return {
        "codes_nll": Measure(float(nll.mean()), "nats", stderr, reason),
        "nats_per_code": Measure(float(nll.mean()) / sites, "nats", stderr / sites, reason),
        "bits_per_code": Measure(float(nll.mean()) / sites / math.log(2), "bits", stderr / sites / math.log(2), reason),
        "train_nats_per_code": Measure(float(learned.mean()) / sites, "nats", None, reason),
    }
