"""A row of the collapse tables: how many of K codes a vector quantiser uses, counted over the codes of all validation images, while it trains.

No likelihood is estimated here: with 49 sites of thousands of codes each that is another experiment. What stands beside usage is -log p(x|z) at the nearest
codes, in nats, so that codes in use are not codes for nothing.
"""

import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments import figures
from experiments.cells import Spec
from experiments.execute import Built, Progress, build, plain
from experiments.figures import Runs
from latentcomp import checkpoint
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.evaluate.usage import Usage, usage
from latentcomp.train import fit

CHUNK = 200  # images encoded at a time


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains, and counts codes on the validation images at each look."""
    made = build(config)
    model, learner, budget = made.model, made.learner, made.budget
    learner.seed = config.seed
    curve, seconds, start = [], 0.0, time.perf_counter()
    for step, _ in enumerate(fit(model, learner, made.data.batches(budget.size, budget.updates, config.seed), made.descent.optimizer), 1):
        if step % budget.every and step != budget.updates:
            continue
        seconds += time.perf_counter() - start
        used, _ = judged(made, made.data.validation)
        curve.append({"step": step, "val_nll": 100 * (1 - used.used), "seconds": seconds})
        if folder is not None:
            checkpoint.save(folder / "last.pt", {"model": model, "learner": learner, "optimizer": made.descent.optimizer})
        progress(step)
        start = time.perf_counter()
    used, nll = judged(made, made.data.validation)
    few, _ = judged(made, made.data.validation[: budget.look_images])
    measures = {
        "used": Measure(100 * used.used, "%"),
        "used_few": Measure(100 * few.used, "%"),
        "perplexity": Measure(used.perplexity, "codes"),
        "reconstruction": mean(nll),
        "tokens": Measure(float(used.counts.sum()), "codes"),
        "tokens_few": Measure(float(few.counts.sum()), "codes"),
        "seconds": Measure(seconds, "s"),
    }
    common = {"seconds": seconds, "expected": None, "source": None, "config": plain(config)}
    records = [{"row": row, "seed": config.seed, "metric": metric} | measure._asdict() | common for metric, measure in measures.items()]
    return records, {"curve": curve, "best_step": config.batches} | _shown(made)


@torch.no_grad()
def judged(made: Built, x: Tensor) -> tuple[Usage, Tensor]:
    """Which codes the images use, and -log p(x|z) of each."""
    model, posterior = made.model, made.learner.posterior
    codes, nll = [], []
    for part in x.split(CHUNK):
        z = posterior(model, part).mode
        codes.append(z)
        nll.append(-model.log_likelihood(part, z))
    return usage(torch.cat(codes), model.codebook.codes), torch.cat(nll)


@torch.no_grad()
def _shown(made: Built) -> dict[str, Tensor]:
    shown = made.data.test[:8].clone()  # of a view, the whole data set would be stored
    z = made.learner.posterior(made.model, shown).mode
    return {"images": shown, "reconstructions": made.model.decode(made.model.codebook(z)).mean}


def pictures(runs: Runs, spec: Spec) -> list[tuple[str, str, bytes]]:
    """What the report shows besides summary and curves: title, caption, file."""
    return [("Reconstructions", "Test images, and the mean image at the nearest codes, of the first seed.", figures.reconstructions(runs, spec))]
