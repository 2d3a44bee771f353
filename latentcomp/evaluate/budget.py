"""What a run is given and what came of it: how long, what it looks at, how it descends, on which machine."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentcomp.checkpoints import Checkpoints
from latentcomp.data.shuffled import Shuffled
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Budget(NamedTuple):
    """What every learner is given.

    Attributes:
        updates: batches to train on.
        size: B.
        every: batches between two looks at the validation images.
        prior_updates: updates of the second-stage prior.
        proposal_updates: updates of the importance-sampling proposal (only where codes cannot be enumerated, as all that follow).
        samples: M of importance sampling.
        own_samples: M with the learner's own posterior in place of the fitted proposal.
        look_images: validation images that a look takes, the first ones; 0 for all.
        look_samples: M of a look.
        dreams: images that the bounds of log p(x) are certified on.
    """

    updates: int = 500
    size: int = 100
    every: int = 50
    prior_updates: int = 300
    proposal_updates: int = 1000
    samples: int = 1000
    own_samples: int = 100
    look_images: int = 0
    look_samples: int = 100
    dreams: int = 100


@runtime_checkable
class Source(Protocol):
    """Data to train on: a ``Split``, a folder of images."""

    def batches(self, size: int, updates: int, seed: int = 0) -> Shuffled:
        """Batches of B examples, in an order that is a function of the seed."""
        ...


class Looks(NamedTuple):
    """What is measured of a run every so often, and which look's state it is left in.

    Attributes:
        measure: numbers of a state, from model and learner in evaluation mode under their averaged weights; by name.
        watched: which of them decides which state is kept, the least or the ``highest``; None keeps the last state.
        highest: whether more is better.
        patience: the run ends early after so many looks without a better one; 0 for never.
    """

    measure: Callable[[LatentVariableModel, Learner], dict[str, float]]
    watched: str | None = "val_nll"
    highest: bool = False
    patience: int = 0

    def score(self, numbers: Mapping[str, Any]) -> float | None:
        """The number that decides, the smaller the better; None where the last state is kept.

        Raises:
            ValueError: a look has no such number; lists those it has.
        """
        if self.watched is None:
            return None
        if self.watched not in numbers:
            raise ValueError(f"watched={self.watched} is no number of a look; those are {', '.join(sorted(numbers))}")
        return -numbers[self.watched] if self.highest else numbers[self.watched]


class Training(NamedTuple):
    """What training was like.

    Attributes:
        curve: one dictionary for each look: step, the numbers of the look (such as val_nll, in nats), seconds of training until then, and the mean of each
            metric over the steps since the look before.
        best_step: the look that was kept.
        decoder_evaluations: images decoded in training.
        seconds: wall-clock time of training, without the looks.
    """

    curve: list[dict[str, float]]
    best_step: int
    decoder_evaluations: int
    seconds: float


class Descent(NamedTuple):
    """How parameters descend.

    Attributes:
        optimizer: over theta and phi.
        scheduler: of its learning rates, moved once a batch; or None.
        average: the decay of the weight average that is looked at and kept; 0 for none.
        clip: the largest norm of an update's gradient.
    """

    optimizer: Optimizer
    scheduler: LRScheduler | None = None
    average: float = 0.0
    clip: float = math.inf


class Log(Protocol):
    """What keeps the metrics of every step."""

    def __call__(self, step: int, metrics: dict[str, Tensor]) -> None:
        """Keeps them; they lie on the device, and reading them waits for it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """How much it has kept, all of it written."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Forgets what came after."""
        ...


class Machine(NamedTuple):
    """How a run is carried out; where it ends does not depend on it.

    Attributes:
        fabric: device, precision and processes (``latentcomp.engine``), or None.
        accumulate: micro-batches a batch.
        checkpoints: where the run saves itself, and goes on from if there is something; or None.
        every: batches between two saves, besides those at each look; 0 for none.
        log: called after each batch with its step and metrics, on the device; its state is saved with the run's, so that a log of a run that went on
            holds each step once.
    """

    fabric: "Fabric | None" = None
    accumulate: int = 1
    checkpoints: Checkpoints | None = None
    every: int = 0
    log: Log | None = None
