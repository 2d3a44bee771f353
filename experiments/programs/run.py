"""A row of the Pyro table: one method on all five programs, side by side step by step, and how far each ends from the exact posterior."""

import time
from pathlib import Path

import pyro
import torch
from hydra.utils import get_class
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from experiments import options
from experiments.job import Progress, Result, plain
from experiments.programs.methods import Method
from experiments.programs.problem import PROGRAMS, problem
from latentcomp import objectives
from latentcomp.evaluate.protocol import Measure, mean


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> Result:
    """Trains on all programs, and judges on test data that no guide has seen. It takes a minute or two, so no state is written to ``folder``.

    Raises:
        RefusedOption: an option that this procedure does not honour.
    """
    options.refuse(config)
    pyro.clear_param_store()
    pyro.set_rng_seed(config.seed)
    methods: dict[str, Method] = {}
    for name in PROGRAMS:
        methods[name] = get_class(config.method)(problem(name, config.budget.train, config.budget.test))
        pyro.clear_param_store()
    seconds, curve = dict.fromkeys(PROGRAMS, 0.0), []
    for step in range(1, config.batches + 1):
        for name, method in methods.items():
            start = time.perf_counter()
            method.step(method.problem.rows(step - 1, config.budget.size, config.seed), (step - 1) / config.batches)
            seconds[name] += time.perf_counter() - start
        if step % config.budget.every == 0:
            curve.append({"step": step, "val_nll": float(torch.stack([total_variation(method) for method in methods.values()]).mean())})
            progress(step)
    measures = {key: value for name, method in methods.items() for key, value in _measures(name, method).items()}
    for key, unit in (("tv", "probability"), ("kl_q_p", "nats"), ("kl_p_q", "nats")):
        values = [measures[f"{key}_{name}"].value for name in PROGRAMS]
        infinite = [name for name, value in zip(PROGRAMS, values, strict=True) if value is None]
        average = None if infinite else sum(value for value in values if value is not None) / len(values)
        measures[key] = Measure(average, unit, None, f"infinite on {', '.join(infinite)}" if infinite else None)
    measures |= {f"seconds_{name}": Measure(spent, "s") for name, spent in seconds.items()} | {"seconds": Measure(sum(seconds.values()), "s")}
    common = {"expected": None, "source": None, "config": plain(config), "seconds": sum(seconds.values())}
    records = [{"row": row, "seed": config.seed, "metric": metric} | measure._asdict() | common for metric, measure in measures.items()]
    return records, {"curve": curve, "best_step": config.batches}


@torch.no_grad()
def total_variation(method: Method) -> Float[Tensor, ""]:
    """Mean total variation on the test data."""
    return objectives.total_variation(method.problem.exact.log_p, method.table()).mean()


@torch.no_grad()
def _measures(name: str, method: Method) -> dict[str, Measure]:
    log_p, log_q = method.problem.exact.log_p, method.table()
    return {
        f"tv_{name}": mean(objectives.total_variation(log_p, log_q), "probability"),
        f"kl_q_p_{name}": mean(objectives.kl(log_q, log_p)),
        f"kl_p_q_{name}": mean(objectives.kl(log_p, log_q)),
    }
