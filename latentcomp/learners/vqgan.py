"""VQGAN (Esser et al., 2021, "Taming Transformers"): a first stage whose codes a transformer models afterwards.

The learner wraps another one, by default the straight-through learner of the VQ-VAE, and uses its losses. Without a critic, as here, its loss is the
reconstruction and quantisation loss of the paper's eq. 4.

Minimises: what the wrapped learner minimises.
"""

from collections.abc import Iterator

from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.nearest_code import NearestCode


class VQGAN(Learner):
    """The first stage of Taming Transformers.

    Args:
        learner: the learner whose reconstruction it uses; a ``NearestCode`` posterior stands for ``StraightThrough`` with it.
    """

    def __init__(self, learner: Learner | NearestCode) -> None:
        base = StraightThrough(learner) if isinstance(learner, NearestCode) else learner
        super().__init__(base.posterior)
        self.learner = base
        self.feeds_codebook = base.feeds_codebook

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """The wrapped learner's updates."""
        self.learner.seed, self.learner.step = self.seed, self.step
        yield from self.learner.losses(model, batch)

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The wrapped learner's state."""
        self.learner.update(model, statistics)
        super().update(model, statistics)
