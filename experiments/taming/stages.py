"""The first stages that a row's priors learn on: of pictures, and of maps that these are conditioned on; trained once, shared by all rows that want the same.

A stage is what its own settings, data and seed make it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.taming.course import Course, Looks, Place, shared, trained
from experiments.taming.sets import Source
from experiments.taming.vqgan import Preset
from latentcomp.batch import Batch
from latentcomp.data.shuffled import Shuffled
from latentcomp.evaluate.training import Descent
from latentcomp.learners.gumbel_softmax import GumbelSoftmax
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.taming.first_stage import load_vqgan


def made(node: DictConfig, *arguments: Any, **settings: Any) -> Any:
    """What a part of the configuration names; an error of it in its own words.

    Raises:
        SystemExit: it cannot be made.
    """
    try:
        return instantiate(node, *arguments, **settings)
    except InstantiationException as error:
        if isinstance(error.__cause__, URLError):
            raise SystemExit(
                f"error: VGG-16 could not be downloaded ({error.__cause__.reason}): give weights=FOLDER, the folder of vgg16_features.safetensors"
            ) from error
        raise SystemExit(f"error: {error.__cause__ or error}") from error


def plain(node: DictConfig) -> Any:
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
        for batch in self.batches.after(self.start):
            assert batch.c is not None
            yield Batch(batch.c, None, None, batch.index)


def first_stage(config: DictConfig, data: Source, folder: Path | None, place: Place) -> Preset:
    """The first stage of the pictures, trained as ``budget.first`` says."""
    what = {key: value for key, value in plain(config.data).items() if key not in ("condition", "classes")}  # pictures are the same whatever is said of them
    return _stage(config, config.budget.first, what, data.batches, folder, place)


def published(config: DictConfig, data: Source, folder: Path | None, place: Place, checkpoint: str | None, yaml: str | None) -> Preset:
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


def maps_stage(config: DictConfig, data: Source, folder: Path | None, place: Place) -> Preset:
    """The first stage of the condition's maps (``budget.maps``)."""
    node, kind = config.budget.maps, config.task.condition
    classes = {"classes": data.values} if kind == "labels" else {}
    settings = plain(node)
    settings = OmegaConf.create(settings | {"preset": settings[kind] | classes})
    return _stage(config, settings, plain(config.data), lambda *how: Maps(data.batches(*how)), folder, place)


def _stage(config: DictConfig, node: Any, what: Any, batches: Callable[[int, int, int], Shuffled], folder: Path | None, place: Place) -> Preset:
    settings = {key: value for key, value in plain(node).items() if key in ("updates", "size", "preset", "optimizer", "average")}
    torch.manual_seed(config.seed)
    model, learner = made(node.preset)
    learner.seed = config.seed
    course = Course({"model": model, "learner": learner})

    def train(own: Path | None) -> None:
        optimizer = made(node.optimizer)([*model.parameters(), *learner.parameters()])
        looks, where = Looks(max(1, node.updates // 10), dict), Place(own, place.fabric)
        trained(model, learner, batches(node.size, node.updates, config.seed), Descent(optimizer, None, node.average), looks, where, course)

    precision = {} if config.get("precision", "32-true") == "32-true" else {"precision": config.precision}
    shared(folder, {"settings": settings, "data": what, "seed": config.seed} | precision, course, train)
    return Preset(model, learner)
