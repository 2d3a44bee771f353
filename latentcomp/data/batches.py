"""Batches of a data set in memory, whose order is a function of (seed, epoch)."""

from collections.abc import Iterator

from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.data.shuffled import Shuffled
from latentcomp.noise import Noise


class Batches(Shuffled):
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
        super().__init__(len(x), size, updates, seed, "images", x.device)
        if grey is not None and grey.shape != x.shape:
            raise ValueError(f"grey holds a probability for each pixel of the images, so it has their shape {tuple(x.shape)}; got {tuple(grey.shape)}")
        self.x, self.c, self.grey = x, c, grey

    def __iter__(self) -> Iterator[Batch]:
        for update in range(self.start, self.updates):
            index = self.rows(update)
            yield Batch(self._images(index, update), None if self.c is None else self.c[index], index=index)

    def _images(self, index: Tensor, update: int) -> Tensor:
        if self.grey is None:
            return self.x[index]
        return bernoulli(self.grey[index], Noise(~self.seed, update, index)).to(self.x.dtype)


def bernoulli(grey: Tensor, noise: Noise) -> Tensor:
    """Pixels that are on with probability grey / 255, ``(B, C, H, W)`` of 0 and 1."""
    return (noise.uniform((), grey.shape[1:]) < grey / 255).float()
