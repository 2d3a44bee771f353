"""The second stage's table: priors that learn the codes of one frozen first stage, judged by their negative log-likelihood of the test images' codes.

The first stage is the digits table's row ``vq_ema`` with the row's own numbers of sites and codes; all rows of a seed share it. A masked prior has no
likelihood, only a bound: its numbers carry that note.
"""

import copy
import functools
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from torch import Tensor

from experiments import settings
from experiments.descent import descent
from experiments.execute import build, pictures
from experiments.job import Built, Job, Result, budget, procedure
from experiments.machine import on_device
from experiments.watching.grids import grid
from experiments.watching.watcher import Shows
from latentcomp.batch import Batch
from latentcomp.data.split import Split
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import Rate, code_rate
from latentcomp.evaluate.scores import code_nll
from latentcomp.evaluate.training import Looks, train
from latentcomp.learners.learner import Learner
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior


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


@procedure
def execute(job: Job) -> Result:
    """Learns the prior, keeps the state of the best validation NLL, and judges it on the codes of the test images."""
    config = job.config
    first = first_stage(config.seed, config.budget.first, config.sites, config.codes)
    torch.manual_seed(config.seed)
    model, learner = (
        second_stage(copy.deepcopy(first.model), instantiate(config.prior)),
        SecondStage(copy.deepcopy(first.posterior), instantiate(config.objective)),
    )
    descending, data = descent(config, learner, model), on_device(first.data, job.fabric)
    job.engine.place(model, learner, [descending.optimizer])
    learner.seed = config.seed
    train_z, validation_z, test_z = (learner.codes(model, Batch(x)) for x in (data.train, data.validation, data.test))

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        noise = Noise(config.seed, 0, torch.arange(len(validation_z), device=validation_z.device))
        return {"val_nll": float(code_nll(model.prior(), validation_z, noise).mean())}

    shows = Shows(picture=lambda: grid(model, learner, data.validation[:8]))
    training = job.trained(Built(data, model, learner, descending, budget(config)), Looks(look), shows)
    held_out, learned = _rate(model, learner, data.test, test_z, config.seed), _rate(model, learner, data.train, train_z, config.seed, draws=1)
    measures = {
        "codes_nll": held_out.nats,
        "nats_per_code": held_out.nats_per_token,
        "bits_per_code": held_out.bits_per_token,
        "train_nats_per_code": learned.nats_per_token._replace(stderr=None),
        "seconds": Measure(training.seconds, "s"),
    }
    measures |= job.also(model, learner, data)
    return job.records(measures, training.seconds), pictures(model, model, learner, data, training)


def _rate(model: LatentVariableModel, learner: SecondStage, x: Tensor, z: Tensor, seed: int, draws: int = 8) -> Rate:
    """Of all codes at once."""
    return code_rate(model, learner.posterior, [Batch(x, z=z)], seed=seed, draws=draws)
