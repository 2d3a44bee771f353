"""A row of the tables of priors: codes of a first stage, a prior that learns them, its likelihood of test pictures' codes, and where asked for, its samples.

A prior is judged at the state of best validation NLL. FID alone would choose another one: the paper's best FIDs of faces are those of priors that know their
training pictures by heart (appendix of Esser et al., 2021).
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.descent import descent
from experiments.job import Built, Job, Result, budget, plain, procedure
from experiments.machine import digest
from experiments.making import made
from experiments.taming import coded, stages
from experiments.taming.judges import Judges, called
from experiments.taming.limits import Trial, Update, remembered
from experiments.taming.priors import Build, Sites, parameters
from experiments.taming.samples import Drawn
from experiments.taming.shared import Stage, shared
from experiments.watching.grids import tiles
from experiments.watching.watcher import Shows
from latentcomp.conditions import Encoded, Labels
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import Rate, code_rate
from latentcomp.evaluate.realism import Realism
from latentcomp.evaluate.training import Looks, Training
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder
from latentcomp.noise import Noise
from latentcomp.train import fit

SHOWN = 16  # samples of a row that the report shows
VALIDATION = "val_nats_per_code"
OF_SAMPLES = ("sampling", "number", "against", "weights")  # in what rows that share a prior may differ
OF_SAMPLES_BUDGET = ("samples", "judge", "rejector", "seeds")


class Stages(NamedTuple):
    """What a prior learns on.

    Attributes:
        first: of the pictures.
        data: their codes, and those of their conditions.
        sites: what a prior writes and reads.
        classes: of a class condition; 0 for none.
        judges: of the samples; None where none are drawn.
        job: the row's.
    """

    first: stages.Preset
    data: coded.Coded
    sites: Sites
    classes: int
    judges: Judges | None
    job: Job

    def learner(self) -> SecondStage:
        """What teaches a prior."""
        learner = SecondStage(copy.deepcopy(self.first.learner.posterior), made(self.job.config.objective))
        learner.seed = self.job.config.seed
        return learner

    def rate(self, model: LatentVariableModel, part: str) -> Rate:
        """What the codes of a part cost under the model's prior."""
        return code_rate(model, self.first.learner.posterior, self.data.held_out(part))


def prepared(job: Job) -> Stages:
    """Data, judges and first stages of a row.

    Raises:
        SystemExit: data or weights that a user must bring are not there.
    """
    config, engine = job.config, job.engine
    data, kind, vocabulary, condition = made(config.data), config.task.condition, 0, cast(nn.Module | None, None)
    judges = called(config, data)
    first = made(config.first_stage)(job, data)
    engine.place(first.model, first.learner, [])
    if kind == "class":
        condition, vocabulary = Labels(data.values), data.values
    elif kind is not None:
        maps = stages.maps_stage(job, data)
        engine.place(maps.model, maps.learner, [])
        condition, vocabulary = Encoded(maps.model, maps.learner.posterior).requires_grad_(False).eval(), maps.model.codebook.codes
    codes = coded.Coded(data, coded.Coder(first, condition, engine), config.budget.judged)
    grid = cast(SiteDecoder, first.model.decoder).grid
    return Stages(first, codes, codes.sites(grid, vocabulary), vocabulary if kind == "class" else 0, judges, job)


def trial(on: Stages) -> Trial:
    """What a limit times: updates of priors that are thrown away, on this row's codes."""
    config = on.job.config

    def of(build: Build) -> Update:
        model, learner = second_stage(on.first.model, build(on.sites)), on.learner()
        batches = on.data.batches(config.budget.size, 10**9, config.seed)
        optimizer, parts = descent(config, learner, model).optimizer, config.machine.accumulate
        updates: Iterator[Any] = fit(model.train(), learner.train(), batches, optimizer, parts, fabric=on.job.fabric)
        return lambda: float(next(updates)["nll"])

    return of


@procedure
def execute(job: Job) -> Result:
    """Learns the prior, judges it on the codes of the test pictures, and draws from it."""
    config = job.config
    on, build = prepared(job), made(config.second)
    own = job.folder and job.folder / f"updates-{digest(plain(config))}.json"
    updates = remembered(own, lambda: made(config.limit)(config.budget.updates, build, trial(on)))
    model, training = learned(on, build, updates)
    found = measures(on, model) | {"parameters": Measure(float(parameters(model.prior)), ""), "updates": Measure(float(updates), "")}
    best = min(look[VALIDATION] for look in training.curve)
    found |= {VALIDATION: Measure(best, "nats"), "seconds": Measure(training.seconds, "s")} | ({} if on.judges is None else realism(on, model, on.judges))
    curve = [{"step": look["step"], "val_nll": look[VALIDATION], "seconds": look["seconds"]} for look in training.curve]
    return job.records(found, training.seconds), {"curve": curve, "best_step": training.best_step, "samples": shown(on, model)}


def learned(on: Stages, build: Build, updates: int) -> tuple[LatentVariableModel, Training]:
    """The model under its trained prior, which rows that differ in their samples alone share, and how training went.

    A row of other updates than its budget's, such as one at equal time, has them from its limit: its budget and its rates' schedule end with them.
    """
    job = on.job
    config = cast(DictConfig, OmegaConf.merge(job.config, {"batches": updates}))
    torch.manual_seed(config.seed)
    model = second_stage(on.first.model, build(on.sites))
    job.engine.place(model, on.first.learner, [])

    def train(own: Job) -> Training:
        learner = on.learner()
        looks = Looks(lambda *_: {VALIDATION: on.rate(model, "validation").nats_per_token.value or 0.0}, VALIDATION)
        shows = Shows(picture=lambda: tiles(shown(on, model), 8))
        with_codes = Built(on.data, model, learner, descent(config, learner, model), budget(config))
        return own._replace(progress=job.progress).trained(with_codes, looks, shows)

    settings = {key: value for key, value in plain(config).items() if key not in OF_SAMPLES}
    settings["budget"] = {key: value for key, value in settings["budget"].items() if key not in OF_SAMPLES_BUDGET}
    training = shared(job, Stage("priors", settings, {"prior": model.prior}), train)
    return model.eval(), training


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
def realism(on: Stages, model: LatentVariableModel, judges: Judges) -> dict[str, Measure]:
    """FID, and IS where the judge classifies, of samples against the pictures of ``config.against``, and how many there were of both."""
    config, data, engine = on.job.config, on.data.data, on.job.engine
    judge = judges.judge.to(next(model.prior.parameters()).device)
    distance = Realism(judge, ["fid", "is"] if judge.classes else ["fid"])
    for batch in data.held_out(config.against):
        distance.update(engine.placed(batch.x), real=True)
    drawn = Drawn(model, on.data, on.classes, judges.rejector, config.seed)
    held = on.data.conditions("test")
    number = config.number or (config.budget.samples if held is None else len(held))
    for images in made(config.sampling)(drawn, number):
        distance.update(images, real=False)
    found = distance.measures()
    numbers = {"samples": Measure(float(distance.made), ""), "pictures": Measure(float(distance.real), "")}
    return {name.removesuffix(f"_{judge.name}"): measure for name, measure in found.items()} | numbers


@torch.no_grad()
def shown(on: Stages, model: LatentVariableModel) -> Tensor:
    """A few samples of the prior as it is, in [0, 1]; of a condition, those of the first test pictures."""
    r, index = on.data.conditions("test"), torch.arange(SHOWN, device=next(model.prior.parameters()).device)
    r = None if r is None else r[:SHOWN]
    rows = SHOWN if r is None else len(r)
    z = model.prior(r).sample((rows,) if r is None else (), Noise(0, 0, index[:rows]))
    return (model.decode(model.codebook(z)).mean.cpu() / 2 + 0.5).clamp(0, 1)
