"""A row of the reconstruction table: a first stage with some number, size and geometry of codes; how near its reconstructions are, and which codes it uses."""

import math
from collections.abc import Iterator
from typing import cast

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.descent import descent
from experiments.job import Built, Job, Result, budget, procedure
from experiments.making import made
from experiments.taming.priors import parameters
from experiments.taming.sets import Source
from experiments.taming.stages import seen
from experiments.taming.vqgan import Preset
from latentcomp.batch import Batch
from latentcomp.engine import Engine
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import Looks
from latentcomp.evaluate.usage import Tally

SHOWN = 8  # test pictures that the report shows


@procedure
def execute(job: Job) -> Result:
    """Trains the first stage, and measures its reconstructions of test pictures, and of training pictures.

    Raises:
        SystemExit: data or weights that a user must bring are not there.
    """
    config, data = job.config, made(job.config.data)
    judged = judging(config, data)  # before anything is learned, so that weights that are missing are asked for at once
    torch.manual_seed(config.seed)
    stage = Preset(*made(config.budget.preset))
    job.engine.place(stage.model, stage.learner, [])
    built = Built(data, *stage, descent(config, stage.learner, stage.model), budget(config))
    training = job.trained(built, Looks(lambda *_: look(stage, data, job.engine), None), seen(job, stage, data))
    found, pictures = measures(judged, stage, data, job.engine)
    found |= {"parameters": Measure(float(parameters(stage.model) + parameters(stage.learner.posterior)), ""), "seconds": Measure(training.seconds, "s")}
    found |= {"val_l1": Measure(training.curve[-1]["val_l1"], "")}
    curve = [{"step": at["step"], "val_nll": at["val_l1"], "seconds": at["seconds"], "code_usage": at["val_usage"]} for at in training.curve]
    return job.records(found, training.seconds), {"curve": curve, "best_step": training.best_step} | pictures


@torch.no_grad()
def look(stage: Preset, data: Source, engine: Engine, most: int = 1000) -> dict[str, float]:
    """The mean absolute error on validation pictures, and the share of codes that they use."""
    model, posterior = stage.model, stage.learner.posterior
    errors, tally, seen = [], Tally(len(model.cardinalities), model.codebook.codes), 0
    for batch in data.held_out("validation"):
        x = engine.placed(batch.x)
        z = posterior(model, x).mode
        errors.append((x - model.decode(model.codebook(z)).mean).abs().mean((1, 2, 3)))
        tally.update(z)
        seen += batch.size
        if seen >= most:
            break
    return {"val_l1": float(torch.cat(errors).mean()), "val_usage": tally.usage().used}


def judging(config: DictConfig, data: Source) -> ImageMeasures:
    """What reconstructions of a row are judged by."""
    distances = {} if config.weights is None else made(config.distances)
    return ImageMeasures(distances, [made(config.budget.judge, data, config.weights)], ["fid"])


def measures(judged: ImageMeasures, stage: Preset, data: Source, engine: Engine) -> tuple[dict[str, Measure], dict[str, Tensor]]:
    """Of test pictures; rFID of training pictures, too, as the paper has both; and what the report shows."""
    for module in (*judged.extractors, *judged.distances.values()):
        cast(nn.Module, module).to(next(stage.model.parameters()).device)
    seen = {part: _Counted(_placed(data, part, engine)) for part in ("test", "train")}
    of = {part: judged.of_reconstructions(stage.model, stage.learner.posterior, batches) for part, batches in seen.items()}
    rfid = {name: of[part].pop(f"rfid_{judged.extractors[0].name}") for name, part in (("rfid", "test"), ("rfid_train", "train"))}
    found = of["test"] | rfid | {"code_usage": of["test"]["code_usage"]._replace(value=100 * (of["test"]["code_usage"].value or 0.0), unit="%")}
    x = next(_placed(data, "test", engine)).x[:SHOWN]
    with torch.no_grad():
        z = stage.learner.posterior(stage.model, x).mode
        y = stage.model.decode(stage.model.codebook(z)).mean
    codebook = stage.model.codebook
    found |= {"pictures": Measure(float(seen["test"].number), ""), "pictures_train": Measure(float(seen["train"].number), "")}
    found |= {"bits": Measure(codebook.depth * math.log2(codebook.codes), "bits"), "dimensions": Measure(float(codebook.width), "")}
    point = torch.tensor([found["code_usage"].value, found["rfid"].value])
    return found, {"images": x.clone().cpu() / 2 + 0.5, "reconstructions": (y.cpu() / 2 + 0.5).clamp(0, 1), "point": point}


class _Counted:
    """Batches, and of how many pictures they were."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches, self.number = batches, 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            self.number += batch.size
            yield batch


def _placed(data: Source, part: str, engine: Engine) -> Iterator[Batch]:
    return (Batch(engine.placed(batch.x), None, None, batch.index) for batch in data.held_out(part))
