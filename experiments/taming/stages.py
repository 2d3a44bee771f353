"""The first stages that a row's priors learn on: of pictures, and of maps that these are conditioned on; trained once, shared by all rows that want the same.

A stage is what its own settings, data and seed make it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.job import Built, Job
from experiments.making import made
from experiments.taming import sets
from experiments.taming.shared import Stage, shared
from experiments.taming.vqgan import Preset
from experiments.watching.grids import grid
from experiments.watching.watcher import Shows
from latentcomp.batch import Batch
from latentcomp.data.shuffled import Shuffled
from latentcomp.evaluate.training import Budget, Descent, Looks, Source, Training
from latentcomp.learners.gumbel_softmax import GumbelSoftmax
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.taming.first_stage import load_vqgan


def contained(node: DictConfig) -> Any:
    """A part of the configuration as plain data."""
    return OmegaConf.to_container(node, resolve=True)


class Maps(Shuffled):
    """The batches of a data set with its conditions in the place of its pictures.

    Args:
        batches: of pictures and conditions.
    """

    def __init__(self, batches: Shuffled) -> None:
        super().__init__(batches.examples, batches.size, batches.updates, batches.seed, "maps")
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches.after(self.start).share(self.rank, self.count):
            assert batch.c is not None
            yield Batch(batch.c, None, None, batch.index)


class MapsOf(NamedTuple):
    """A data set whose conditions are what is learned.

    Attributes:
        data: pictures and conditions.
    """

    data: sets.Source

    def batches(self, size: int, updates: int, seed: int = 0) -> Maps:
        """Batches of maps."""
        return Maps(self.data.batches(size, updates, seed))


def first_stage(job: Job, data: sets.Source) -> Preset:
    """The first stage of the pictures, trained as ``budget.first`` says."""
    node = job.config.budget.first
    what = {key: value for key, value in contained(job.config.data).items() if key not in ("condition", "classes")}  # they make no other pictures
    torch.manual_seed(job.config.seed)
    preset = Preset(*made(node.preset))
    return _trained(job, node, what, data, preset, seen(job, preset, data))


def seen(job: Job, preset: Preset, data: sets.Source, number: int = 64) -> Shows:
    """What is watched of a first stage while it learns: which codes some validation pictures use, and how the first of them are reconstructed."""
    if job.folder is None:
        return Shows()
    x = job.engine.placed(next(iter(data.held_out("validation"))).x[:number])
    return Shows(x, lambda: grid(*preset, x[:8]) / 2 + 0.5)


def published(job: Job, data: sets.Source, checkpoint: str | None, yaml: str | None) -> Preset:
    """A published first stage, or any other checkpoint of taming-transformers.

    Raises:
        SystemExit: no files were given.
        ValueError: they are no first stage, or do not belong together.
    """
    if checkpoint is None or yaml is None:
        raise SystemExit("error: first_stage=published wants first_stage.checkpoint=FILE.ckpt first_stage.yaml=FILE.yaml, both of taming-transformers")
    stage = load_vqgan(checkpoint, yaml)
    learner = StraightThrough(stage.posterior) if isinstance(stage.posterior, NearestCode) else GumbelSoftmax(stage.posterior)
    return Preset(stage.model, learner)


def maps_stage(job: Job, data: sets.Source) -> Preset:
    """The first stage of the condition's maps (``budget.maps``)."""
    node, kind = job.config.budget.maps, job.config.task.condition
    classes = {"classes": data.values} if kind == "labels" else {}
    settings = contained(node)
    settings = OmegaConf.create(settings | {"preset": settings[kind] | classes})
    torch.manual_seed(job.config.seed)
    return _trained(job, settings, contained(job.config.data), MapsOf(data), Preset(*made(settings.preset)), Shows())


def _trained(job: Job, node: DictConfig, what: Any, data: Source, preset: Preset, shows: Shows) -> Preset:
    """The last state of a stage, by its weight average where there is one: a loss with a critic says nothing of which state is best."""
    model, learner = preset
    settings = {key: value for key, value in contained(node).items() if key in ("updates", "size", "preset", "optimizer", "average")}
    limits = Budget(node.updates, node.size, max(1, node.updates // 10))

    def train(own: Job) -> Training:
        optimizer = made(node.optimizer)([*model.parameters(), *learner.parameters()])
        return own.trained(Built(data, model, learner, Descent(optimizer, None, node.average), limits), Looks(lambda *_: {}, None), shows)

    shared(job, Stage("first_stages", {"stage": settings, "data": what}, {"model": model, "learner": learner}), train)
    return preset
