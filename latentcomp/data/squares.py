"""Batches of squares of pictures, whose order and places are functions of (seed, epoch, index)."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentcomp.batch import Batch
from latentcomp.data.members import Pictures
from latentcomp.data.pictures import BadPicture
from latentcomp.data.shuffled import Shuffled

Bad = dict[str, str]


class SquareBatches(Shuffled):
    """Batches of training squares for a number of updates: shuffled and cut anew each epoch, the last incomplete batch of an epoch left out.

    Args:
        pictures: of the training part.
        size: B; at most the number of squares in an epoch.
        updates: how many batches.
        seed: of order and places.
        workers: processes that prepare batches ahead; 0 for none.
    """

    def __init__(self, pictures: Pictures, size: int, updates: int, seed: int = 0, workers: int = 0) -> None:
        super().__init__(len(pictures) * pictures.view.crops, size, updates, seed, "epoch's squares")
        self.pictures, self.workers = pictures, workers

    def __iter__(self) -> Iterator[Batch]:
        own = torch.Generator()  # a loader draws a number as it starts: from the global generator, a run that goes on would draw once more than a whole one
        prepared = DataLoader(_Prepared(self), batch_size=None, sampler=range(self.start, self.updates), num_workers=self.workers, generator=own)
        for batch, bad in prepared:
            self.pictures.report.update(bad)  # a worker's own report stays in its process
            if batch is not None:
                yield Batch(*batch)

    @staticmethod
    def fixed(pictures: Pictures, index: Int[Tensor, " B"]) -> Iterator[Batch]:
        """One batch of squares that never change, without those of bad pictures; none where all are bad."""
        squares, bad = cut(pictures, index, pictures.view.held_out(index), replace=False)
        pictures.report.update(bad)
        if squares is not None:
            yield squares


class _Prepared(Dataset[tuple[Batch | None, Bad]]):
    """Batch by the number of its update."""

    def __init__(self, batches: SquareBatches) -> None:
        self.batches = batches

    def __getitem__(self, update: int) -> tuple[Batch | None, Bad]:
        pictures, index = self.batches.pictures, self.batches.rows(update)
        at = pictures.view.augmented(index, self.batches.seed, update // self.batches.per_epoch)
        return cut(pictures, index, at, replace=True)


def cut(pictures: Pictures, index: Int[Tensor, " B"], at: Float[Tensor, "B 3"], replace: bool) -> tuple[Batch | None, Bad]:
    """The squares of examples, and which pictures proved bad: left out, or where ``replace`` each replaced by the next good one.

    Raises:
        ValueError: no picture is good.
    """
    bad: Bad = {}
    rows: list[tuple[int, Tensor, Tensor | None, int]] = []
    for row, (example, place) in enumerate(zip(index.tolist(), at.tolist(), strict=True)):
        found = _found(pictures, example // pictures.view.crops, bad, len(pictures) if replace else 1)
        if found is not None:
            (image, beside), label = found
            rows.append((row, pictures.view.cut(image, place), _map(pictures, image, beside, place), label))
        elif replace:
            raise ValueError(f"none of the {len(pictures)} pictures can be read; the last: {next(reversed(bad.items()))}")
    if not rows:
        return None, bad
    kept, squares, maps, labels = zip(*rows, strict=True)
    return Batch(pictures.view.pixels(torch.stack(squares)), _conditions(pictures, maps, labels), None, index[list(kept)]), bad


def _found(pictures: Pictures, i: int, bad: Bad, tries: int) -> tuple[tuple[Tensor, Tensor | None], int] | None:
    for j in range(i, i + tries):
        try:
            return pictures[j % len(pictures)], pictures.label(j % len(pictures))
        except BadPicture as error:
            bad[pictures.entries[j % len(pictures)].name] = str(error)
    return None


def _map(pictures: Pictures, image: Tensor, beside: Tensor | None, at: Sequence[float]) -> Tensor | None:
    """What goes with a square: where it lies, or the same square of the picture's map."""
    if pictures.places:
        return pictures.view.coordinates(image.shape[1:], at)
    return None if beside is None else pictures.view.cut(beside, at)


def _conditions(pictures: Pictures, maps: Sequence[Tensor | None], labels: Sequence[int]) -> Tensor | None:
    """c: coordinates, class numbers, label maps as whole numbers, other maps in the units of x; or None."""
    if pictures.places:
        return torch.stack([m for m in maps if m is not None])
    if pictures.pairs is not None:
        stacked = torch.stack([m for m in maps if m is not None])
        return stacked.long() if pictures.pairs.kind == "labels" else pictures.view.pixels(stacked)
    return torch.tensor(labels) if labels[0] >= 0 else None
