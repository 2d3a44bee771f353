"""fit(): the one loop.

It descends whatever losses a learner yields and never asks which learner it is. A loss says which parameters it may change; only they get a gradient,
and an optimiser leaves alone what has none. Several micro-batches, and several processes, make the updates of the whole batch.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from latentcomp import processes
from latentcomp.batch import Batch
from latentcomp.chunks import takes_moments
from latentcomp.engine import Engine
from latentcomp.learners.learner import Learner, Loss
from latentcomp.model import LatentVariableModel
from latentcomp.nn.batch_norm import SharedBatchNorm2d

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class NonFiniteLoss(FloatingPointError):
    """A loss or a gradient was nan or infinite; nothing of that update has been written.

    Attributes:
        step: of the run.
        learner: the name of its class.
        term: the update.
        batch: the rows of this process that it was computed from.
    """

    def __init__(self, message: str, step: int = 0, learner: str = "", term: str = "", batch: Batch | None = None) -> None:
        super().__init__(message)
        self.step, self.learner, self.term, self.batch = step, learner, term, batch


class _Part(NamedTuple):
    """A micro-batch: its rows, its part of the whole batch, and its generator of losses."""

    batch: Batch
    share: float
    losses: Iterator[Loss]


def fit(
    model: LatentVariableModel,
    learner: Learner,
    batches: Iterable[Batch],
    optimizers: Optimizer | Sequence[Optimizer],
    accumulate: int = 1,
    clip: float = math.inf,
    fabric: "Fabric | None" = None,
) -> Iterator[dict[str, Tensor]]:
    """Trains, and yields each step's metrics when it is done: evaluate, log, save and stop in the body of your own ``for``.

    Args:
        model: p(x, z), theta.
        learner: the method, phi. Its ``seed`` keys all noise.
        batches: what to learn from; the run ends when they do. With several processes, the whole batches (or those of ``batches.share``).
        optimizers: one or several, which together hold every trainable parameter of the model and the learner.
        accumulate: split each batch into this many micro-batches; the draws, and up to rounding the updates, stay the same.
        clip: the largest norm of an update's gradient; a longer one is shortened to it.
        fabric: a launched ``lightning_fabric.Fabric``: device, precision (32-true, 64-true, bf16-mixed) and processes. None: where the model lies.

    Yields:
        One dictionary a step, of scalars on the device (read them seldom: each reading waits for the device).

    Raises:
        NonFiniteLoss: names the step, the learner, the term and the batch; parameters and state are those of the last good update.
        PeerFailed: another process stopped with an error.
        ValueError: a parameter that no optimiser holds, a codebook that this learner does not teach, data the model cannot explain (the first batch is
            looked at), processes that would make unequal numbers of micro-batches, or a batch norm that would see only the rows of its own process.
    """
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    _check_optimizers(model, learner, optimizers)
    _check_codebook(model, learner)
    _check_norms(model, learner)
    engine = Engine(fabric)
    with processes.Watch():
        engine.place(model, learner, optimizers)
        for number, (batch, rows) in enumerate(engine.shared(batches, accumulate)):
            if number == 0:
                with processes.Together():
                    learner.check(model, batch)
            parts = [_Part(part, part.size / rows, learner.losses(model, part)) for part in batch.split(accumulate)]
            yield _step(model, learner, parts, optimizers, clip, engine)


def _step(model: LatentVariableModel, learner: Learner, parts: list[_Part], optimizers: list[Optimizer], clip: float, engine: Engine) -> dict[str, Tensor]:
    """All updates of one batch: the generators of its micro-batches advance in lockstep, one loss each before every update."""
    metrics: dict[str, Tensor] = {}
    rows: defaultdict[str, list[Tensor]] = defaultdict(list)
    while losses := _backward(parts, optimizers, engine):
        learns = losses[0].learns
        processes.sum_gradients(learns)
        names = list(losses[0].metrics)
        value, *means = processes.summed([_mean(parts, [loss.value for loss in losses]), *(_mean(parts, [loss.metrics[n] for loss in losses]) for n in names)])
        _descend(value, losses, learner, parts, optimizers, clip)
        metrics |= dict(zip(names, means, strict=True))
        for key, below in processes.gathered({key: torch.cat([loss.statistics[key] for loss in losses]) for key in losses[0].statistics}).items():
            rows[key].append(below)
    learner.update(model, {key: torch.cat(statistics) for key, statistics in rows.items()})
    return metrics


def _backward(parts: list[_Part], optimizers: list[Optimizer], engine: Engine) -> list[Loss]:
    """The next loss of every micro-batch, its gradient accumulated and its graph freed before the next is computed; [] when there is none."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses = []
    with processes.Together() as said:
        for part in parts:
            with engine.precision():
                loss = next(part.losses, None)
            if loss is None:
                continue
            if loss.learns and loss.value.requires_grad:
                engine.backward(loss.value * part.share, loss.learns)
            losses.append(loss._replace(value=loss.value.detach()))
        said.number = len(losses)
    if any(said.numbers) and not all(said.numbers):
        raise RuntimeError(f"the processes disagree about the phase: they made {said.numbers} losses. A schedule must be a function of (seed, step) or of rows")
    return losses


def _mean(parts: list[_Part], values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value * part.share for value, part in zip(values, parts, strict=True)]).sum()


def _descend(value: Tensor, losses: list[Loss], learner: Learner, parts: list[_Part], optimizers: list[Optimizer], clip: float) -> None:
    """One update, unless its loss or gradient is not finite: one look at the device for both."""
    gradients = [parameter.grad for parameter in losses[0].learns if parameter.grad is not None]
    norm = get_total_norm(gradients)
    if not torch.isfinite(value + norm):
        raise _not_finite(norm, losses, learner, parts)
    if clip < math.inf:
        clip_grads_with_norm_(losses[0].learns, clip, norm)
    for optimizer in optimizers:
        optimizer.step()


def _not_finite(norm: Tensor, losses: list[Loss], learner: Learner, parts: list[_Part]) -> NonFiniteLoss:
    """The error that names the first micro-batch whose loss is not finite, or else the gradient, and the processes that it began in."""
    bad = [number for number, loss in enumerate(losses) if not torch.isfinite(loss.value)]
    number, origins = bad[0] if bad else 0, _origins(losses)
    loss, batch = losses[number], parts[number].batch
    elsewhere = bool(origins) and processes.rank() not in origins
    what = f"loss of the {loss.term}" if bad or elsewhere else f"gradient of the {loss.term}"
    size = float(loss.value) if bad and not elsewhere else f"not finite (norm {float(norm)}, loss {float(loss.value)} here)"
    look = f"the batch that {_ranks(origins)} names" if elsewhere else f"this batch: positions {_some(batch.positions)}"
    message = (
        f"the {what} of {type(learner).__name__} is {size} at step {learner.step}{_where(origins)}; its parts are "
        f"{ {key: float(value) for key, value in loss.metrics.items()} }. Parameters and state are those before this update. "
        f"Lower the learning rate, or look at {look}"
    )
    return NonFiniteLoss(message, learner.step, type(learner).__name__, loss.term, batch)


def _origins(losses: list[Loss]) -> list[int]:
    """The processes in which most numbers are not finite: what they exchange, such as lambda, is infected in all of them, the rest only where it began."""
    own = sum(not bool(torch.isfinite(value)) for loss in losses for value in (loss.value, *loss.metrics.values()))
    numbers = [number for (number,) in processes.stacked([own])]
    return [rank for rank, number in enumerate(numbers) if number == max(numbers) > 0]


def _ranks(ranks: list[int]) -> str:
    return f"rank {', '.join(map(str, ranks))}"


def _where(origins: list[int]) -> str:
    if processes.count() == 1:
        return ""
    return f" in {_ranks(origins)} of {processes.count()}" if origins else " in this or another process"


def _some(positions: Tensor, most: int = 8) -> str:
    shown = ", ".join(map(str, positions[:most].tolist()))
    return shown if len(positions) <= most else f"{shown}, ... ({len(positions)})"


def _check_optimizers(model: LatentVariableModel, learner: Learner, optimizers: list[Optimizer]) -> None:
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    named = [(f"model.{name}", p) for name, p in model.named_parameters()] + [(f"learner.{name}", p) for name, p in learner.named_parameters()]
    missing = [name for name, p in named if p.requires_grad and id(p) not in held]
    if missing:
        raise ValueError(f"no optimiser holds {', '.join(missing)}: add them to one, or freeze them with requires_grad_(False)")


def _check_codebook(model: LatentVariableModel, learner: Learner) -> None:
    if model.codebook.averages and not learner.feeds_codebook:
        raise ValueError(
            f"{type(model.codebook).__name__} learns from the codes that vector quantisation assigns, and {type(learner).__name__} assigns none, so it would "
            "never learn: give the model a Codebook, which learns by gradient"
        )


def _check_norms(model: LatentVariableModel, learner: Learner) -> None:
    """A plain batch norm would take its moments over the rows of its own process, so that several processes would not make the run of one."""
    if processes.count() == 1:
        return
    for part, whole in (("model", model), ("learner", learner)):
        for name, module in whole.named_modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, SharedBatchNorm2d | nn.SyncBatchNorm) and takes_moments(module):
                raise ValueError(
                    f"{part}.{name} is a {type(module).__name__}, whose moments would be those of each of the {processes.count()} processes' own rows: use "
                    "latentcomp.nn.SharedBatchNorm2d, which has the same state (on GPUs torch.nn.SyncBatchNorm, too), another norm, or one process"
                )
