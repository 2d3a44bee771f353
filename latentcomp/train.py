"""fit(): the one loop.

It descends whatever losses a learner yields and never asks which learner it is. A loss says which parameters it may change; only they get a gradient,
and an optimiser leaves alone what has none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss
from latentcomp.model import LatentVariableModel


class NonFiniteLoss(FloatingPointError):
    """A loss was nan or infinite; nothing of that update has been written."""


def fit(
    model: LatentVariableModel,
    learner: Learner,
    batches: Iterable[Batch],
    optimizers: Optimizer | Sequence[Optimizer],
    accumulate: int = 1,
) -> Iterator[dict[str, Tensor]]:
    """Trains, and yields each step's metrics when it is done: evaluate, log, save and stop in the body of your own ``for``.

    Args:
        model: p(x, z), theta.
        learner: the method, phi. Its ``seed`` keys all noise.
        batches: what to learn from; the run ends when they do.
        optimizers: one or several, which together hold every trainable parameter of the model and the learner.
        accumulate: split each batch into this many micro-batches; the draws, and up to rounding the updates, stay the same.

    Yields:
        One dictionary a step, of scalars on the device (read them seldom: each reading waits for the device).

    Raises:
        NonFiniteLoss: names the step, the learner and the term; parameters and state are those of the last good update.
        ValueError: a parameter that no optimiser holds, a codebook that this learner does not teach, or data the model cannot explain (the first
            batch is looked at).
    """
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    _check_optimizers(model, learner, optimizers)
    _check_codebook(model, learner)
    first = True
    for batch in batches:
        if first:
            learner.check(model, batch)
            first = False
        yield _step(model, learner, batch._replace(index=batch.positions).split(accumulate), optimizers)


def _step(model: LatentVariableModel, learner: Learner, parts: list[Batch], optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """All updates of one batch: the generators of its micro-batches advance in lockstep, one loss each before every update."""
    shares = [part.size / sum(part.size for part in parts) for part in parts]
    generators = [learner.losses(model, part) for part in parts]
    metrics: dict[str, Tensor] = {}
    rows: defaultdict[str, list[Tensor]] = defaultdict(list)
    while losses := _backward(learner, generators, shares, optimizers):
        for optimizer in optimizers:
            optimizer.step()
        for key in losses[0].metrics:
            metrics[key] = torch.stack([loss.metrics[key] * share for loss, share in zip(losses, shares, strict=True)]).sum()
        for loss in losses:
            for key, statistic in loss.statistics.items():
                rows[key].append(statistic)
    learner.update(model, {key: torch.cat(statistics) for key, statistics in rows.items()})
    return metrics


def _backward(learner: Learner, generators: list[Iterator[Loss]], shares: list[float], optimizers: list[Optimizer]) -> list[Loss]:
    """The next loss of every micro-batch, its gradient accumulated and its graph freed before the next is computed; [] when there is none."""
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses = []
    for generator, share in zip(generators, shares, strict=True):
        loss = next(generator, None)
        if loss is None:
            continue
        _check_finite(loss, learner)
        if loss.learns and loss.value.requires_grad:
            (loss.value * share).backward(inputs=loss.learns)
        losses.append(loss._replace(value=loss.value.detach()))
    return losses


def _check_finite(loss: Loss, learner: Learner) -> None:
    if not torch.isfinite(loss.value):
        raise NonFiniteLoss(
            f"the loss of the {loss.term} of {type(learner).__name__} is {float(loss.value.detach())} at step {learner.step}; its parts are "
            f"{ {key: float(value) for key, value in loss.metrics.items()} }. Parameters and state are those before this update. "
            "Lower the learning rate, or look at this batch"
        )


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
