"""Where a run computes, and how: device, precision and processes, through Lightning Fabric.

``fit`` speaks to this and to nothing else of Fabric. Without a Fabric a run computes where its model lies, in the model's own precision. Fabric is imported
by whoever makes one (``pip install lightning-fabric``); this file needs none of it.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from latentcomp import processes
from latentcomp.batch import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = ("32-true", "64-true", "bf16-mixed")
STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


class Engine:
    """What one update needs of the machine.

    Args:
        fabric: a launched ``lightning_fabric.Fabric``, or None.

    Raises:
        ValueError: a precision or strategy that this loop cannot keep its promises with; names those that it can.
    """

    def __init__(self, fabric: "Fabric | None" = None) -> None:
        self.fabric = fabric
        if fabric is None:
            return
        precision, strategies = fabric.strategy.precision.precision, {kind.__name__ for kind in type(fabric.strategy).__mro__}
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision {precision!r} is not one of {', '.join(PRECISIONS)}: 16-mixed would hide a loss that is not finite behind its loss scaler, and "
                "parameters of 16 bits lose the running means; use bf16-mixed"
            )
        if not strategies & set(STRATEGIES):
            raise ValueError(
                f"{type(fabric.strategy).__name__} shards or wraps the parameters, and learners call methods that such wrappers do not see: use strategy='ddp' "
                "(or 'auto' with one device), under which this loop sums gradients itself"
            )
        if fabric.world_size > 1 and processes.count() != fabric.world_size:
            raise ValueError(f"this Fabric is for {fabric.world_size} processes, and {processes.count()} are running: call fabric.launch() before fit()")

    def place(self, model: nn.Module, learner: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Moves everything to Fabric's device and precision, in place, and gives every process the values of the first."""
        if self.fabric is not None:
            for module in (model, learner):
                self.fabric.strategy.precision.convert_module(module)
                self.fabric.to_device(module)
            _move_states(optimizers)
        processes.broadcast([tensor for module in (model, learner) for tensor in itertools.chain(module.parameters(), module.buffers())])

    def shared(self, batches: Iterable[Batch], parts: int = 1) -> Iterator[tuple[Batch, int]]:
        """The rows of each batch that are this process's, on its device, and how many rows the whole batch has.

        ``batches`` whose ``share`` method gives a process its rows are asked for it, so that no process loads the others' images; of others, each process
        must be given the same, and takes its part.

        Each process goes on to split its rows into ``parts`` micro-batches. Losses may speak to the other processes (lambda, a shared batch norm), so all
        must make as many.

        Raises:
            ValueError: a batch has fewer rows than there are processes, the processes have unequal numbers of batches, or one has too few rows for its parts.
        """
        count, own = processes.count(), getattr(batches, "share", None)
        source = iter(batches if own is None or count == 1 else own(processes.rank(), count))
        while True:
            with processes.Together() as said:
                batch = next(source, None)
                if batch is not None:
                    batch = self._placed(batch if own is not None or count == 1 else _part(batch, processes.rank(), count))
                    said.number = 1 + batch.size
            if batch is None or not all(said.numbers):
                if any(said.numbers):
                    raise ValueError(f"the batches of some of the {count} processes have ended, and those of others have not: give each as many")
                return
            rows = [number - 1 for number in said.numbers]
            if len({min(number, parts) for number in rows}) > 1:
                raise ValueError(
                    f"the {count} processes have {rows} rows of this batch, which accumulate={parts} would split into unequal numbers of micro-batches: "
                    f"use accumulate={min(rows)} or less, or larger batches"
                )
            yield batch, sum(rows)

    def _placed(self, batch: Batch) -> Batch:
        moved = {name: self.placed(field) for name, field in batch._replace(index=batch.positions)._asdict().items() if field is not None}
        return batch._replace(**moved)

    def placed(self, x: Tensor) -> Tensor:
        """Data on Fabric's device and in the precision of its parameters. Mixed precision rounds what networks multiply, not what they are given: log p(x|z) is
        about the images as they are, and outside autocast, where they are looked at, the weights are not rounded either.
        """
        if self.fabric is None:
            return x
        precision, moved = self.fabric.strategy.precision, x.to(self.fabric.device, non_blocking=True)
        return moved if precision.precision == "bf16-mixed" else precision.convert_input(moved)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Within it networks compute in Fabric's precision."""
        return contextlib.nullcontext() if self.fabric is None else self.fabric.autocast()

    def backward(self, value: Tensor, learns: list[nn.Parameter]) -> None:
        """Adds to the gradients of what the loss may change."""
        if self.fabric is None:
            value.backward(inputs=learns)
        else:
            self.fabric.backward(value, inputs=learns)


def _part(batch: Batch, rank: int, count: int) -> Batch:
    if batch.size < count:
        raise ValueError(f"a batch of {batch.size} cannot be shared by {count} processes: make it larger, or use fewer processes")
    return batch.split(count)[rank]


@torch.no_grad()
def _move_states(optimizers: Sequence[Optimizer]) -> None:
    """The optimiser's memories follow the parameters that they are of, by the rule of ``Optimizer.load_state_dict``: its counters of steps stay as they are,
    unless it counts on the device (``fused``, ``capturable``).
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            counts = bool(group.get("fused") or group.get("capturable"))
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                state.update({key: _beside(parameter, key, value, counts) for key, value in state.items() if isinstance(value, Tensor)})


def _beside(parameter: Tensor, key: str, value: Tensor, counts: bool) -> Tensor:
    if key == "step":
        return value.to(parameter.device, torch.float32) if counts else value
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
