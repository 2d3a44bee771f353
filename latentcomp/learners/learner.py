"""What every learner is: a source of losses.

A learner owns phi: its posterior, and whatever helps to learn it. For each batch it yields one scalar for each parameter update, computed after the
previous update was made, and says which parameters that update may change. The loop does as it is told and never asks which method it runs.

State without a gradient (an averaged codebook, the running loss of a schedule) is written by ``update``, once a step, after the last update, from
``statistics``: rows that the losses carried and that the loop has put together from all micro-batches. So a loss that is not finite stops the run before
any state has changed, and the split of a batch changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior


class Loss(NamedTuple):
    """One parameter update.

    Attributes:
        term: the name of the update, such as "E-step"; errors and metrics carry it.
        value: the scalar to descend, a mean over the batch.
        learns: the parameters that this update may change, and no others.
        metrics: scalars to log, without a gradient; means over the batch.
        statistics: tensors of rows, which the loop concatenates over micro-batches and hands to ``Learner.update``.
        output: the reconstruction ``(B, C, H, W)``, where there is one.
        codes: the codes ``(S, B, N)`` that it learned from, where later updates of the step may want them.
    """

    term: str
    value: Tensor
    learns: list[nn.Parameter]
    metrics: Mapping[str, Tensor] = {}
    statistics: Mapping[str, Tensor] = {}
    output: Tensor | None = None
    codes: Tensor | None = None


class Learner(nn.Module, ABC):
    """A method.

    Args:
        posterior: q(z|x); its parameters are part of phi, and evaluation judges it.

    Attributes:
        feeds_codebook: whether its losses carry the statistics that a codebook of running means learns from.
        seed: of all noise.
        step: the number of steps made; with the seed and a datum's index it determines every draw.
    """

    feeds_codebook = False

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self.seed, self.step = 0, 0

    @abstractmethod
    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """One loss for each parameter update of this step."""

    def check(self, model: LatentVariableModel, batch: Batch) -> None:
        """Refuses what this learner cannot learn from, of the first batch of a run.

        Raises:
            TypeError: the images are no tensor, or of a wrong type.
            ValueError: they have a wrong shape or values outside the likelihood's support.
        """
        model.check(batch.x)

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """Writes what needs no gradient, once a step. A learner that extends it calls it last: it moves on to the next step."""
        self.step += 1

    @property
    def acting(self) -> Posterior:
        """The posterior whose codes this step's losses decode; another than the one that is judged, where a learner has several."""
        return self.posterior

    def noise(self, batch: Batch) -> Noise:
        """The streams of this step's examples."""
        return Noise(self.seed, self.step, batch.positions)

    def get_extra_state(self) -> dict[str, Any]:
        """Part of ``state_dict``: a restored learner goes on as if it had never stopped."""
        return {"seed": self.seed, "step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores the seed and the step."""
        self.seed, self.step = state["seed"], state["step"]


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters of the modules that require a gradient, each once."""
    return list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))
