"""A data set in three parts."""

from typing import NamedTuple

from torch import Tensor

from latentcomp.data.batches import Batches


class Split(NamedTuple):
    """Images ``(n, C, H, W)`` to learn from, to choose by, and to report on.

    Attributes:
        train: to learn from.
        validation: to choose by.
        test: to report on.
        grey: ``(n, C, H, W)`` bytes, the probabilities (out of 255) that the pixels of ``train`` are on: with them, each batch draws its pixels anew
            (dynamic binarisation), and ``train`` is one such draw; None for images that stay as they are.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    grey: Tensor | None = None

    def batches(self, size: int, updates: int, seed: int = 0) -> Batches:
        """Batches of the training images; of all of them where they are fewer than ``size``."""
        return Batches(self.train, min(size, len(self.train)), updates, seed, grey=self.grey)
