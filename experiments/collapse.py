"""A row of the collapse tables: how many of K codes a vector quantiser uses, counted over the codes of all validation images, while it trains.

No likelihood is estimated here: with 49 sites of thousands of codes each that is another experiment. What stands beside usage is -log p(x|z) at the nearest
codes, in nats, so that codes in use are not codes for nothing. The state that is judged is the last.
"""

from typing import Any

import torch
from torch import Tensor

from experiments import figures
from experiments.cells import Spec
from experiments.execute import build
from experiments.figures import Runs
from experiments.job import Job, Result, procedure
from experiments.machine import on_device
from experiments.watching.grids import grid
from experiments.watching.watcher import Shows
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.evaluate.training import Looks
from latentcomp.evaluate.usage import Usage, usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel

CHUNK = 200  # images encoded at a time


@procedure
def execute(job: Job) -> Result:
    """Trains, and counts codes on the validation images at each look."""
    made = build(job.config)
    data, model, learner = on_device(made.data, job.fabric), made.model, made.learner

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        return {"val_nll": 100 * (1 - judged(model, learner, data.validation)[0].used)}

    shows = Shows(picture=lambda: grid(model, learner, data.validation[:8]))  # what its looks count is a collapse, or none: nothing else need warn of it
    training = job.trained(made._replace(data=data), Looks(look, watched=None), shows)
    used, nll = judged(model, learner, data.validation)
    few, _ = judged(model, learner, data.validation[: made.budget.look_images])
    measures = {
        "used": Measure(100 * used.used, "%"),
        "used_few": Measure(100 * few.used, "%"),
        "perplexity": Measure(used.perplexity, "codes"),
        "reconstruction": mean(nll),
        "tokens": Measure(float(used.counts.sum()), "codes"),
        "tokens_few": Measure(float(few.counts.sum()), "codes"),
        "seconds": Measure(training.seconds, "s"),
    }
    measures |= job.also(model, learner, data)
    return job.records(measures, training.seconds), {"curve": training.curve, "best_step": training.best_step} | _shown(model, learner, data.test)


@torch.no_grad()
def judged(model: LatentVariableModel, learner: Learner, x: Tensor) -> tuple[Usage, Tensor]:
    """Which codes the images use, and -log p(x|z) of each."""
    codes, nll = [], []
    for part in x.split(CHUNK):
        z = learner.posterior(model, part).mode
        codes.append(z)
        nll.append(-model.log_likelihood(part, z))
    return usage(torch.cat(codes), model.codebook.codes), torch.cat(nll)


@torch.no_grad()
def _shown(model: LatentVariableModel, learner: Learner, x: Tensor) -> dict[str, Any]:
    shown = x[:8].clone()  # of a view, the whole data set would be stored
    return {"images": shown, "reconstructions": model.decode(model.codebook(learner.posterior(model, shown).mode)).mean}


def pictures(runs: Runs, spec: Spec) -> list[tuple[str, str, bytes]]:
    """What the report shows besides summary and curves: title, caption, file."""
    return [("Reconstructions", "Test images, and the mean image at the nearest codes, of the first seed.", figures.reconstructions(runs, spec))]
