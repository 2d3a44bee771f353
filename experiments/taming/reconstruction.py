"""A row of the reconstruction table: a first stage with some number, size and geometry of codes; how near its reconstructions are, and which codes it uses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from experiments import options
from experiments.descent import descent
from experiments.execute import Progress
from experiments.machine import fabric as launched
from experiments.taming.course import Course, Looks, Place, shared, trained
from experiments.taming.priors import parameters
from experiments.taming.records import records
from experiments.taming.sets import Source
from experiments.taming.stages import made
from experiments.taming.vqgan import Preset
from latentcomp.batch import Batch
from latentcomp.engine import Engine
from latentcomp.evaluate.extractors import Extractor
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.usage import Tally
from latentcomp.signals import interruptible

SHOWN = 8  # test pictures that the report shows


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains the first stage, and measures its reconstructions of test pictures, and of training pictures.

    Raises:
        SystemExit: data that a user must bring are not there, or an option was asked for that these rows do not honour.
    """
    options.refuse(config)
    with interruptible(folder is not None):
        return _executed(config, row, progress, folder)


def _executed(config: DictConfig, row: str, progress: Progress, folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    place, data = Place(folder, launched(config), progress), made(config.data)
    torch.manual_seed(config.seed)
    stage: Preset = Preset(*made(config.budget.preset))
    stage.learner.seed = config.seed
    course, engine = Course({"model": stage.model, "learner": stage.learner}), Engine(place.fabric)
    engine.place(stage.model, stage.learner, [])
    batches, looks = data.batches(config.budget.size, config.batches, config.seed), Looks(config.budget.every, lambda: look(stage, data, engine))
    shared(None, {}, course, lambda _: trained(*stage, batches, descent(config, stage.learner, stage.model), looks, place, course))
    found, pictures = measures(config, stage, data, engine)
    found |= {"parameters": Measure(float(parameters(stage.model) + parameters(stage.learner.posterior)), ""), "seconds": Measure(course.seconds, "s")}
    curve = [{"step": at["step"], "val_nll": at["val_l1"], "seconds": at["seconds"], "code_usage": at["val_usage"]} for at in course.curve]
    return records(config, row, found, course.seconds), {"curve": curve, "best_step": course.best_step} | pictures


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


def measures(config: DictConfig, stage: Preset, data: Source, engine: Engine) -> tuple[dict[str, Measure], dict[str, Tensor]]:
    """Of test pictures; rFID of training pictures, too, as the paper has both; and what the report shows."""
    judge: Extractor = made(config.budget.judge, data, config.weights)
    distances = {} if config.weights is None else made(config.distances)
    for module in (judge, *distances.values()):
        module.to(next(stage.model.parameters()).device)
    judged = ImageMeasures(distances, [judge], ["fid"])
    of = {part: judged.of_reconstructions(stage.model, stage.learner.posterior, _placed(data, part, engine)) for part in ("test", "train")}
    rfid = {name: of[part].pop(f"rfid_{judge.name}") for name, part in (("rfid", "test"), ("rfid_train", "train"))}
    found = of["test"] | rfid | {"code_usage": of["test"]["code_usage"]._replace(value=100 * (of["test"]["code_usage"].value or 0.0), unit="%")}
    x = next(_placed(data, "test", engine)).x[:SHOWN]
    with torch.no_grad():
        z = stage.learner.posterior(stage.model, x).mode
        y = stage.model.decode(stage.model.codebook(z)).mean
    point = torch.tensor([found["code_usage"].value, found["rfid"].value])
    return found, {"images": x.clone().cpu() / 2 + 0.5, "reconstructions": (y.cpu() / 2 + 0.5).clamp(0, 1), "point": point}


def _placed(data: Source, part: str, engine: Engine) -> Iterator[Batch]:
    return (Batch(engine.placed(batch.x), None, None, batch.index) for batch in data.held_out(part))
