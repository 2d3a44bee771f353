"""The pictures of a run, in squares, wherever it computes."""

from collections.abc import Iterator
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from latentcomp.batch import Batch
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.squares import SquareBatches
from latentcomp.engine import Engine


def made(node: DictConfig | None, *arguments: Any) -> Any:
    """What a part of the configuration names, given these arguments; an error of it in its own words."""
    try:
        return instantiate(node, *arguments)
    except InstantiationException as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from error


def pictures(config: DictConfig | Any) -> ImageFolder:
    """The folder of pictures of a run.

    Raises:
        SystemExit: none is given, or it cannot be used.
    """
    if config.root is None:
        raise SystemExit("error: give data.root=FOLDER, the folder that holds the pictures")
    return made(config)


class Squares:
    """The squares of a folder that never change, on the device and in the precision of a run.

    Args:
        folder: of pictures.
        engine: of the run.
    """

    def __init__(self, folder: ImageFolder, engine: Engine) -> None:
        self.folder, self.engine = folder, engine

    def held_out(self, part: str) -> Iterator[Batch]:
        """All squares of a part, in batches."""
        return map(self._placed, self.folder.held_out(part))

    def spread(self, part: str, number: int) -> Batch:
        """So many squares of a part, from as many of its pictures as possible."""
        members = self.folder.pictures[part]
        examples = len(members) * self.folder.view.crops
        index = torch.linspace(0, examples - 1, min(number, examples)).long()
        return self._placed(next(SquareBatches.fixed(members, index)))

    def _placed(self, batch: Batch) -> Batch:
        return batch._replace(**{name: self.engine.placed(field) for name, field in batch._asdict().items() if field is not None})
