"""The pictures of a run, in squares, wherever it computes."""

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig

from experiments.making import made
from latentcomp.batch import Batch
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.squares import SquareBatches
from latentcomp.engine import Engine


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
