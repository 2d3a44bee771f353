"""Data sets in memory, and batches whose order is a function of (seed, epoch)."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.noise import permutation


class Split(NamedTuple):
    """Images ``(n, C, H, W)`` to learn from, to choose by, and to report on."""

    train: Tensor
    validation: Tensor
    test: Tensor


def digits(fold: int = 0) -> Split:
    """The 1,797 8x8 digits that ship with scikit-learn, binarised at half intensity (value > 8 of 16): 1,300 / 200 / 297 images ``(n, 1, 8, 8)``.

    The test set is the same for every fold (the last 297); the fold turns which 200 of the others are held out for validation.

    Source: Alpaydin and Kaynak (1998), UCI Optical Recognition of Handwritten Digits.
    """
    from sklearn.datasets import load_digits

    x = (torch.as_tensor(load_digits().images) > 8).float().unsqueeze(1)
    learn, test = x[:1500], x[1500:]
    learn = learn[permutation(len(learn), fold, 0)]
    return Split(learn[:1300], learn[1300:], test)


class Batches:
    """Batches of a data set, for a number of updates: shuffled anew each epoch, the last incomplete batch of an epoch left out.

    Args:
        x: ``(n, C, H, W)`` images.
        size: B; at most n.
        updates: how many batches.
        seed: the order of epoch t is a function of (seed, t).
        c: ``(n, ...)`` conditions, or None.
        start: the update to begin with, for a run that goes on.
    """

    def __init__(self, x: Tensor, size: int, updates: int, seed: int = 0, c: Tensor | None = None, start: int = 0) -> None:
        if not 1 <= size <= len(x):
            raise ValueError(f"a batch holds between 1 and n={len(x)} of the images, got size={size}")
        self.x, self.c, self.size, self.updates, self.seed, self.start = x, c, size, updates, seed, start

    def __len__(self) -> int:
        return self.updates - self.start

    def __iter__(self) -> Iterator[Batch]:
        per_epoch = len(self.x) // self.size
        order, epoch = torch.empty(0), -1
        for update in range(self.start, self.updates):
            if update // per_epoch != epoch:
                epoch = update // per_epoch
                order = permutation(len(self.x), self.seed, epoch).to(self.x.device)
            index = order[(update % per_epoch) * self.size :][: self.size]
            yield Batch(self.x[index], None if self.c is None else self.c[index], index=index)
