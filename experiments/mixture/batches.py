"""What R runs are given side by side: in each EM iteration batches for the E-steps, then all points for the M-step."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.noise import permutation


class Phases:
    """Run-major batches; all runs see the same points, and each row's index is its run's seed times n plus its position, so that runs differ in noise.

    Args:
        x: ``(n, 1, 1, 2)`` points.
        seeds: one for each run; a run's numbers depend on its own seed alone.
        iterations: of EM.
        e_steps: batches before the M-step's.
        size: of those batches, in points of each run; n for full batches.
    """

    def __init__(self, x: Float[Tensor, "n 1 1 2"], seeds: Sequence[int], iterations: int, e_steps: int, size: int) -> None:
        self.x, self.seeds, self.iterations, self.e_steps, self.size = x, torch.tensor(seeds), iterations, e_steps, min(size, len(x))
        self.all = self._of(torch.arange(len(x)))

    def _of(self, rows: Int[Tensor, " B"]) -> Batch:
        index = self.seeds.unsqueeze(-1) * len(self.x) + rows
        return Batch(self.x[rows].repeat(len(self.seeds), 1, 1, 1), index=index.flatten())

    def __len__(self) -> int:
        return self.iterations * (self.e_steps + 1)

    def __iter__(self) -> Iterator[Batch]:
        per_epoch = len(self.x) // self.size
        order = torch.empty(0)
        for update in range(len(self)):
            e_step = update % (self.e_steps + 1)
            if e_step == self.e_steps or self.size == len(self.x):
                yield self.all
                continue
            number = update // (self.e_steps + 1) * self.e_steps + e_step
            if number % per_epoch == 0:
                order = permutation(len(self.x), 0, number // per_epoch)
            yield self._of(order[number % per_epoch * self.size :][: self.size])
