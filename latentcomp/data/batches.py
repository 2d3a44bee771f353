"""Batches of a data set in memory, whose order is a function of (seed, epoch)."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.noise import Noise, permutation


class Batches:
    """Batches of a data set, for a number of updates: shuffled anew each epoch, the last incomplete batch of an epoch left out.

    Args:
        x: ``(n, C, H, W)`` images.
        size: B; at most n.
        updates: how many batches.
        seed: the order of epoch t is a function of (seed, t).
        c: ``(n, ...)`` conditions, or None.
        grey: ``(n, C, H, W)`` bytes: each batch draws its pixels anew with these probabilities out of 255, a function of (seed, update, position);
            None for ``x`` as it is.
    """

    def __init__(self, x: Tensor, size: int, updates: int, seed: int = 0, c: Tensor | None = None, grey: Tensor | None = None) -> None:
        if not 1 <= size <= len(x):
            raise ValueError(f"a batch holds between 1 and n={len(x)} of the images, got size={size}")
        if grey is not None and grey.shape != x.shape:
            raise ValueError(f"grey holds a probability for each pixel of the images, so it has their shape {tuple(x.shape)}; got {tuple(grey.shape)}")
        self.x, self.c, self.grey = x, c, grey
        self.size, self.updates, self.seed, self.start = size, updates, seed, 0
        self.rank, self.count = 0, 1

    def after(self, done: int) -> "Batches":
        """The rest of these batches, for a run that goes on after ``done`` updates.

        Raises:
            ValueError: there are not that many.
        """
        if not 0 <= done <= self.updates:
            raise ValueError(f"a run of {self.updates} updates goes on after some of them, or after all; got done={done}")
        rest = copy.copy(self)
        rest.start = done
        return rest

    def share(self, rank: int, count: int) -> "Batches":
        """The rows of these batches that process ``rank`` of ``count`` processes takes; together they are the batches.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if count > self.size:
            raise ValueError(f"a batch of {self.size} cannot be shared by {count} processes: make it larger, or use fewer processes")
        part = copy.copy(self)
        part.rank, part.count = rank, count
        return part

    def __len__(self) -> int:
        return self.updates - self.start

    def __iter__(self) -> Iterator[Batch]:
        per_epoch = len(self.x) // self.size
        order, epoch = torch.empty(0), -1
        for update in range(self.start, self.updates):
            if update // per_epoch != epoch:
                epoch = update // per_epoch
                order = permutation(len(self.x), self.seed, epoch).to(self.x.device)
            index = order[(update % per_epoch) * self.size :][: self.size].tensor_split(self.count)[self.rank]
            yield Batch(self._images(index, update), None if self.c is None else self.c[index], index=index)

    def _images(self, index: Tensor, update: int) -> Tensor:
        if self.grey is None:
            return self.x[index]
        return bernoulli(self.grey[index], Noise(~self.seed, update, index)).to(self.x.dtype)


def bernoulli(grey: Tensor, noise: Noise) -> Tensor:
    """Pixels that are on with probability grey / 255, ``(B, C, H, W)`` of 0 and 1."""
    return (noise.uniform((), grey.shape[1:]) < grey / 255).float()
