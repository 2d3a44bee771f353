"""What a run is given and what came of it: how long, how it descends, on which machine."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from latentcomp.checkpoints import Checkpoints

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


class Training(NamedTuple):
    """What training was like.

    Attributes:
        curve: one dictionary for each look: step, val_nll (nats), seconds of training until then, and the metrics of the last step.
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
