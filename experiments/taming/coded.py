"""A data set as the priors see it: codes z of pictures, and codes r of what they are conditioned on.

Pictures in memory are encoded once. Those of a folder are cut anew each epoch, so that a prior sees none twice in the same way, and are encoded as they come.
"""

import itertools
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from experiments.taming.priors import Sites
from experiments.taming.sets import Source, Standin
from experiments.taming.vqgan import Preset
from latentcomp.batch import Batch
from latentcomp.conditions import Condition
from latentcomp.data.shuffled import Shuffled
from latentcomp.engine import Engine

FOLDER_BATCH = 64  # pictures in a batch of a folder's held-out ones


class Coder(nn.Module):
    """Pictures and conditions to codes.

    Args:
        first: the pictures' first stage, frozen.
        condition: turns c into codes, or None.
        engine: puts batches where the networks are.
    """

    def __init__(self, first: Preset, condition: nn.Module | None, engine: Engine) -> None:
        super().__init__()
        self.model, self.posterior, self.condition, self.engine = first.model, first.learner.posterior, condition, engine

    @torch.no_grad()
    def forward(self, batch: Batch) -> Batch:
        """The posterior's most probable codes, in the place of the picture, too; and the condition's."""
        z = self.posterior(self.model, self.engine.placed(batch.x)).mode
        r = None
        if isinstance(self.condition, Condition) and batch.c is not None:
            r = self.condition.encode(self.engine.placed(batch.c))
        return Batch(z, r, z, self.engine.placed(batch.positions))


class CodedBatches(Shuffled):
    """Batches of codes in memory.

    Args:
        whole: all of them.
        size: B.
        updates: how many batches.
        seed: of the order.
    """

    def __init__(self, whole: Batch, size: int, updates: int, seed: int) -> None:
        super().__init__(whole.size, min(size, whole.size), updates, seed, "codes", whole.x.device)
        self.whole = whole

    def __iter__(self) -> Iterator[Batch]:
        z, r = self.whole.x, self.whole.c
        for update in range(self.start, self.updates):
            index = self.rows(update)
            yield Batch(z[index], None if r is None else r[index], z[index], index)


class Encoding(Shuffled):
    """Batches of pictures, encoded as they come.

    Args:
        batches: of pictures.
        coder: encodes them.
    """

    def __init__(self, batches: Shuffled, coder: Coder) -> None:
        super().__init__(batches.examples, batches.size, batches.updates, batches.seed, "pictures")
        self.batches, self.coder = batches, coder

    def __iter__(self) -> Iterator[Batch]:
        return map(self.coder, self.batches.after(self.start).share(self.rank, self.count))


class Coded:
    """Codes of all parts.

    Args:
        data: pictures and conditions.
        coder: encodes them.
        most: pictures of each part of a folder that priors are judged by; all of those in memory are.
    """

    def __init__(self, data: Source, coder: Coder, most: int = 5000) -> None:
        self.data, self.coder, self.most = data, coder, most
        self._held: dict[str, list[Batch]] = {}

    def held_out(self, part: str) -> list[Batch]:
        """The codes of a part's pictures that never change."""
        if part not in self._held:
            batches = self.data.held_out(part)
            few = batches if isinstance(self.data, Standin) else itertools.islice(batches, -(-self.most // FOLDER_BATCH))
            self._held[part] = [self.coder(batch) for batch in few]
        return self._held[part]

    def batches(self, size: int, updates: int, seed: int = 0) -> Shuffled:
        """Training codes."""
        if not isinstance(self.data, Standin):
            return Encoding(self.data.batches(size, updates, seed), self.coder)
        parts = self.held_out("train")
        z, r = torch.cat([part.x for part in parts]), [part.c for part in parts if part.c is not None]
        return CodedBatches(Batch(z, torch.cat(r) if r else None), size, updates, seed)

    def conditions(self, part: str) -> Int[Tensor, "n M"] | None:
        """The condition's codes of a part's pictures; None where there is no condition."""
        found = [batch.c for batch in self.held_out(part) if batch.c is not None]
        return torch.cat(found) if found else None

    def sites(self, grid: tuple[int, ...], vocabulary: int) -> Sites:
        """What a prior of these codes writes and reads."""
        r = self.conditions("validation")
        return Sites(grid, self.coder.model.codebook.codes, 0 if r is None else r.shape[1], 0 if r is None else vocabulary)
