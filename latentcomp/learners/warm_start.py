"""A warm start: vector quantisation first, while the posterior of another learner learns its codes, and then that learner.

EM with a sampled posterior begins in a bad place: as long as q(z|x) says little about x, the decoder learns to ignore z, and as long as the decoder ignores z
there is nothing for q to learn. Vector quantisation has no such trouble, since the decoder's gradient reaches the encoder straight through the codes. So for
the first steps the model descends the quantiser's loss, and q the cross-entropy

    -log q(z*|x),   z* = argmin_k ||h(x) - e_k||,                                   (distillation)

which decodes nothing; afterwards the second learner goes on with the model and a posterior that fit each other.

Minimises: first what the quantiser's learner minimises, and ``objectives.sleep_loss`` on its codes; then what the second learner minimises, whose optimum
it has.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior


class WarmStart(Learner):
    """A quantiser for ``steps`` steps, then ``learner``.

    Args:
        quantiser: the learner of the first steps; its encoder may share a trunk with the other's posterior.
        learner: the learner of the rest, whose posterior is judged.
        steps: how many steps are the quantiser's.
    """

    def __init__(self, quantiser: StraightThrough, learner: Alternating, steps: int) -> None:
        super().__init__(learner.posterior)
        self.quantiser, self.learner, self.steps = quantiser, learner, steps
        self.feeds_codebook = quantiser.feeds_codebook and steps > 0

    @property
    def acting(self) -> Posterior:
        """The quantiser's, as long as it is the quantiser that learns."""
        return self.quantiser.posterior if self.step < self.steps else self.learner.acting

    def check(self, model: LatentVariableModel, batch: Batch) -> None:
        """Refuses what either learner refuses, before the first of them has learned for long."""
        self.quantiser.check(model, batch)
        self.learner.check(model, batch)

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """The quantiser's update and the distillation, or the learner's updates."""
        for part in (self.quantiser, self.learner):
            part.seed, part.step = self.seed, self.step
        if self.step >= self.steps:
            yield from self.learner.losses(model, batch)
            return
        yield from self.quantiser.losses(model, batch)
        with torch.no_grad():
            z = self.quantiser.posterior(model, batch.x, batch.c).mode
        distillation = objectives.sleep_loss(self.posterior(model, batch.x, batch.c).log_prob(z))
        yield Loss("distillation", distillation, trainable(self.posterior), {"distillation": distillation.detach()})

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The state of the learner whose step it was."""
        (self.quantiser if self.step < self.steps else self.learner).update(model, statistics)
        super().update(model, statistics)
