"""A second stage on own images: built from its configuration, described by it, and loaded again when it has learned."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig

from experiments.job import plain
from experiments.making import made
from experiments.own_images.first_stage import CONFIG, Restored, restored
from experiments.own_images.first_stage import STATE as FIRST
from experiments.own_images.given import Classes, Given
from experiments.own_images.priors import Sites
from experiments.own_images.samples import Samples
from experiments.parts import stored
from latentcomp import checkpoint
from latentcomp.engine import Engine
from latentcomp.learners.second_stage import second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.nn.grid import SiteDecoder
from latentcomp.priors import Autoregressive, InOrder, Prior
from latentcomp.sampling.drawing import Drawing

STATE = "second_stage.pt"


class Finished(NamedTuple):
    """A second stage that has learned.

    Attributes:
        folder: of its run.
        config: of its run.
        first: its first stage.
        model: under the prior.
        given: what the prior is given.
    """

    folder: Path
    config: DictConfig
    first: Restored
    model: LatentVariableModel
    given: Given

    @property
    def weights(self) -> str:
        """What tells it from another: the SHA-256 of its file."""
        return hashlib.sha256((self.folder / STATE).read_bytes()).hexdigest()

    def samples(self, drawing: Drawing, seed: int) -> Samples:
        """Its samples; the pictures are read if their conditions are made from pictures."""
        data = functools.cache(lambda: self.first.on(self.given.condition, None, Engine()).data)
        return Samples(self.model, self.given, data, made(self.first.config.data.view), seed, drawing)


def built(config: DictConfig, first: Restored) -> tuple[LatentVariableModel, Given]:
    """The first stage's model under the prior that is to learn, and what that is given."""
    given = made(config.condition, first)
    side = first.config.data.view.crop
    r = 1 if given.stride is None else (side // given.stride) ** 2
    prior = made(config.second, Sites(first.model.cardinalities, cast(SiteDecoder, first.model.decoder).grid, given.stage, given.codes, r))
    return second_stage(first.model, prior), given


def loaded(folder: str | Path | None, first: str | None = None) -> Finished:
    """A finished second stage, from its folder.

    Args:
        folder: of its run.
        first: of its first stage's run; None for where it was.

    Raises:
        SystemExit: the folder is not that of a second stage's run, or the first stage is another one.
    """
    missing = [name for name in (STATE, CONFIG) if folder is None or not (Path(folder) / name).is_file()]
    if folder is None or missing:
        raise SystemExit(
            f"error: second={folder} is no folder of a finished second stage: it lacks {' and '.join(missing)}. Run experiment=images/second_stage before"
        )
    config = stored(Path(folder) / CONFIG)
    stage = restored(first or config.first)
    if stage.weights != config.weights_of_first:
        raise SystemExit(f"error: {stage.folder / FIRST} is not the first stage whose codes {folder} learned: give first=FOLDER, that one's")
    model, given = built(config, stage)
    try:
        checkpoint.load(Path(folder) / STATE, {"prior": model.prior})
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"error: {Path(folder) / STATE} does not hold the prior that {CONFIG} beside it describes: {error}") from error
    return Finished(Path(folder), config, stage, model.eval(), given)


def described(config: DictConfig, first: Restored, given: Given) -> dict[str, Any]:
    """What :func:`loaded` builds it from again, without the pictures."""
    known = {"condition": _classes(given)} if isinstance(given, Classes) else {}
    return plain(config) | known | {"weights_of_first": first.weights}


def _classes(given: Classes) -> dict[str, Any]:
    return {"_target_": "experiments.own_images.given.classes", "names": list(given.names), "unlearned": list(given.unlearned)}


def drawing_of(sampling: Mapping[str, Any]) -> Drawing:
    """``sampling`` of a configuration, where a whole number may stand for a real one."""
    top_p = sampling["top_p"]
    return Drawing(float(sampling["temperature"]), sampling["top_k"], None if top_p is None else float(top_p), float(sampling["guidance"]))


def check(config: DictConfig, model: LatentVariableModel, given: Given) -> None:
    """Refuses samples that could not be drawn, before anything is learned: what ``sampling`` and ``objective.drop`` ask for.

    Raises:
        SystemExit: names the setting and the remedy.
    """
    drawing, drop = drawing_of(config.sampling), config.objective.get("drop", 0)
    if (drawing.guidance != 1 or drop) and given.stage is None:
        raise SystemExit(f"error: guidance={drawing.guidance} and objective.drop={drop} are about a condition, and this prior has none: give condition=...")
    if drawing.guidance != 1 and not drop:
        raise SystemExit(f"error: guidance={drawing.guidance} needs a prior that learned to do without its condition: train it with objective.drop=0.1")
    try:
        if drawing != Drawing():
            drawing.given(model.prior, None)
        if drop:
            _null(model.prior)
    except (TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error


def _null(prior: Prior) -> None:
    """What stands for no condition; raises where the network has nothing."""
    if isinstance(prior, InOrder):
        _null(prior.prior)
    elif isinstance(prior, Autoregressive):
        prior.network.null(torch.zeros(1, 1, dtype=torch.long))
