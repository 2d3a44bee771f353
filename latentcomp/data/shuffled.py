"""What all batches of a training run share: how many there are, which examples stand in each, and which of them a process takes.

The order of epoch t is a function of (seed, t), so that batch number u is the same batch whether or not a run was stopped before it; the last incomplete
batch of an epoch is left out.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.noise import permutation


class Shuffled(ABC):
    """Batches for a number of updates.

    Args:
        examples: n, how many there are in an epoch.
        size: B; at most n.
        updates: how many batches.
        seed: of the order.
        kind: what the examples are called in errors.
        device: where their numbers are wanted; by default where ``permutation`` makes them.

    Raises:
        ValueError: a size that no batch can have.
    """

    def __init__(self, examples: int, size: int, updates: int, seed: int, kind: str, device: torch.device | None = None) -> None:
        if not 1 <= size <= examples:
            raise ValueError(f"a batch holds between 1 and n={examples} of the {kind}, got size={size}")
        self.examples, self.size, self.updates, self.seed, self.device = examples, size, updates, seed, device
        self.start, self.rank, self.count = 0, 0, 1
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    @property
    def per_epoch(self) -> int:
        """Batches an epoch."""
        return self.examples // self.size

    def after(self, done: int) -> "Shuffled":
        """The rest of these batches, for a run that goes on after ``done`` updates.

        Raises:
            ValueError: there are not that many.
        """
        if not 0 <= done <= self.updates:
            raise ValueError(f"a run of {self.updates} updates goes on after some of them, or after all; got done={done}")
        rest = copy.copy(self)
        rest.start = done
        return rest

    def share(self, rank: int, count: int) -> "Shuffled":
        """The rows of these batches that process ``rank`` of ``count`` processes takes; together they are the batches.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if count > self.size:
            raise ValueError(f"a batch of {self.size} cannot be shared by {count} processes: make it larger, or use fewer processes")
        part = copy.copy(self)
        part.rank, part.count = rank, count
        return part

    def rows(self, update: int) -> Int[Tensor, " B"]:
        """The examples of this process in batch number ``update``."""
        epoch, place = divmod(update, self.per_epoch)
        if epoch != self._epoch:
            order = permutation(self.examples, self.seed, epoch)
            self._epoch, self._order = epoch, order if self.device is None else order.to(self.device)
        return self._order[place * self.size :][: self.size].tensor_split(self.count)[self.rank]

    def __len__(self) -> int:
        return self.updates - self.start

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """The batches from number ``start`` on."""
