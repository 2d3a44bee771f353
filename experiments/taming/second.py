"""A row of the tables of priors: codes of a first stage, a prior that learns them, its likelihood of test pictures' codes, and where asked for, its samples.

A prior is judged at the state of best validation NLL. FID alone would choose another one: the paper's best FIDs of faces are those of priors that know their
training pictures by heart (appendix of Esser et al., 2021).
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments import options
from experiments.descent import descent
from experiments.execute import Progress, plain
from experiments.machine import fabric as launched
from experiments.taming import coded, stages
from experiments.taming.course import Course, Looks, Place, shared, trained
from experiments.taming.limits import Trial, Update, remembered
from experiments.taming.priors import Build, Sites, parameters
from experiments.taming.records import records
from experiments.taming.samples import Drawn
from experiments.taming.stages import made
from latentcomp.conditions import Encoded, Labels
from latentcomp.engine import Engine
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import Rate, code_rate
from latentcomp.evaluate.realism import Realism
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder
from latentcomp.noise import Noise
from latentcomp.signals import interruptible
from latentcomp.train import fit

SHOWN = 16  # samples of a row that the report shows
VALIDATION = "val_nats_per_code"


class Stages(NamedTuple):
    """What a prior learns on.

    Attributes:
        first: of the pictures.
        data: their codes, and those of their conditions.
        sites: what a prior writes and reads.
        classes: of a class condition; 0 for none.
        place: where it is trained.
    """

    first: stages.Preset
    data: coded.Coded
    sites: Sites
    classes: int
    place: Place

    def learner(self, config: DictConfig) -> SecondStage:
        """What teaches a prior."""
        learner = SecondStage(copy.deepcopy(self.first.learner.posterior), made(config.objective))
        learner.seed = config.seed
        return learner

    def rate(self, model: LatentVariableModel, part: str) -> Rate:
        """What the codes of a part cost under the model's prior."""
        return code_rate(model, self.first.learner.posterior, self.data.held_out(part))


def prepared(config: DictConfig, folder: Path | None, progress: Progress) -> Stages:
    """Data and first stages of a row.

    Raises:
        SystemExit: data that a user must bring are not there, or an option was asked for that these rows do not honour.
    """
    place = Place(folder, launched(config), progress)
    engine, common = Engine(place.fabric), None if folder is None else folder.parent / "first_stages"
    data, kind, vocabulary, condition = made(config.data), config.task.condition, 0, cast(nn.Module | None, None)
    first = made(config.first_stage)(config, data, common, place)
    engine.place(first.model, first.learner, [])
    if kind == "class":
        condition, vocabulary = Labels(data.values), data.values
    elif kind is not None:
        maps = stages.maps_stage(config, data, common, place)
        engine.place(maps.model, maps.learner, [])
        condition, vocabulary = Encoded(maps.model, maps.learner.posterior).requires_grad_(False).eval(), maps.model.codebook.codes
    data = coded.Coded(data, coded.Coder(first, condition, engine), config.budget.judged)
    grid = cast(SiteDecoder, first.model.decoder).grid
    return Stages(first, data, data.sites(grid, vocabulary), vocabulary if kind == "class" else 0, place)


def trial(on: Stages, config: DictConfig) -> Trial:
    """What a limit times: updates of priors that are thrown away, on this row's codes."""

    def of(build: Build) -> Update:
        model, learner = second_stage(on.first.model, build(on.sites)), on.learner(config)
        batches = on.data.batches(config.budget.size, 10**9, config.seed)
        updates: Iterator[Any] = fit(model.train(), learner.train(), batches, descent(config, learner, model).optimizer, fabric=on.place.fabric)
        return lambda: float(next(updates)["nll"])

    return of


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Learns the prior, judges it on the codes of the test pictures, and draws from it."""
    options.refuse(config)
    with interruptible(folder is not None):
        return _executed(config, row, progress, folder)


def _executed(config: DictConfig, row: str, progress: Progress, folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    on, build = prepared(config, folder, progress), made(config.second)
    own = None if folder is None else folder / "updates.json"
    updates = remembered(own, lambda: made(config.limit)(config.budget.updates, build, trial(on, config)))
    model, course = learned(config, on, build, updates, None if folder is None else folder.parent / "priors")
    found = measures(on, model) | {"parameters": Measure(float(parameters(model.prior)), ""), "updates": Measure(float(updates), "")}
    found |= {"seconds": Measure(course.seconds, "s")} | ({} if config.sampling is None else realism(config, on, model))
    curve = [{"step": look["step"], "val_nll": look[VALIDATION], "seconds": look["seconds"]} for look in course.curve]
    return records(config, row, found, course.seconds), {"curve": curve, "best_step": course.best_step, "samples": shown(on, model)}


def learned(config: DictConfig, on: Stages, build: Build, updates: int, folder: Path | None) -> tuple[LatentVariableModel, Course]:
    """The model under its trained prior, which rows that differ in their samples alone share, and how training went."""
    torch.manual_seed(config.seed)
    model = second_stage(on.first.model, build(on.sites))
    Engine(on.place.fabric).place(model, on.first.learner, [])
    course, settings = Course({"prior": model.prior}), OmegaConf.merge(config, {"batches": updates})

    def train(own: Path | None) -> None:
        learner, batches = on.learner(config), on.data.batches(config.budget.size, updates, config.seed)
        looks = Looks(config.budget.every, lambda: {VALIDATION: on.rate(model, "validation").nats_per_token.value or 0.0}, VALIDATION)
        trained(model, learner, batches, descent(settings, learner, model), looks, on.place._replace(folder=own), course)  # type: ignore[arg-type]

    identity = {key: value for key, value in plain(config).items() if key not in ("sampling", "number", "against", "weights")}
    identity["budget"] = {key: value for key, value in identity["budget"].items() if key not in ("samples", "judge", "rejector", "seeds")}
    shared(folder, identity | {"updates": updates}, course, train)
    return model.eval(), course


def measures(on: Stages, model: LatentVariableModel) -> dict[str, Measure]:
    """Rates of the codes of test and training pictures."""
    test, train = on.rate(model, "test"), on.rate(model, "train")
    return {
        "nats_per_code": test.nats_per_token._replace(unit="nats"),
        "bits_per_code": test.bits_per_token._replace(unit="bits"),
        "bits_per_dimension": test.bits_per_dimension._replace(unit="bits"),
        "train_nats_per_code": train.nats_per_token._replace(unit="nats"),
    }


@torch.no_grad()
def realism(config: DictConfig, on: Stages, model: LatentVariableModel) -> dict[str, Measure]:
    """FID, and IS where the judge classifies, of samples against the pictures of ``config.against``."""
    data, engine = on.data.data, Engine(on.place.fabric)
    judge = made(config.budget.judge, data, config.weights)
    judge.to(next(model.prior.parameters()).device)
    distance = Realism(judge, ["fid", "is"] if judge.classes else ["fid"])
    for batch in data.held_out(config.against):
        distance.update(engine.placed(batch.x), real=True)
    drawn = Drawn(model, on.data, on.classes, lambda: made(config.budget.rejector, data), config.seed)
    held = on.data.conditions("test")
    number = config.number or (config.budget.samples if held is None else len(held))
    for images in made(config.sampling)(drawn, number):
        distance.update(images, real=False)
    found = distance.measures()
    return {kind: found[f"{kind}_{judge.name}"] for kind in ("fid", "is") if f"{kind}_{judge.name}" in found}


@torch.no_grad()
def shown(on: Stages, model: LatentVariableModel) -> Tensor:
    """A few samples of the prior as it is, in [0, 1]; of a condition, those of the first test pictures."""
    r, index = on.data.conditions("test"), torch.arange(SHOWN, device=next(model.prior.parameters()).device)
    r = None if r is None else r[:SHOWN]
    rows = SHOWN if r is None else len(r)
    z = model.prior(r).sample((rows,) if r is None else (), Noise(0, 0, index[:rows]))
    return (model.decode(model.codebook(z)).mean.cpu() / 2 + 0.5).clamp(0, 1)
