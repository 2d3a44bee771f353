"""Several processes that make one run: what they must tell each other, as plain functions that do nothing where there is one process.

The rows of a batch are shared out; each process computes the losses of its rows, weighed by their part of the whole batch. A sum over processes of
gradients, metrics and moments is then that of the whole batch, and rows of statistics that are put below each other are those of the whole batch. Learners
call methods of models, which the hooks of ``DistributedDataParallel`` do not see; so the loop sums gradients itself, after backward.

All of it rests on ``torch.distributed``: gloo on CPUs, NCCL on GPUs, started by Fabric, torchrun or by hand. Every exchange is given up when another process
is known to have failed (``alarm``).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from latentcomp import alarm
from latentcomp.alarm import PeerFailed, Watch

__all__ = ["PeerFailed", "Watch"]  # what users of this module catch, and stand their loops in

BUCKET = 25 * 2**20  # bytes that travel at once, as in DistributedDataParallel


def count() -> int:
    """How many processes make this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def device() -> torch.device:
    """Where a tensor must lie for the processes to exchange it: on the GPU for NCCL, on the host otherwise."""
    return torch.device("cpu") if dist.get_backend() == "gloo" else torch.device(torch.accelerator.current_accelerator() or "cpu")


def _exchanged(exchange: Callable[..., Any], *arguments: Any) -> None:
    """One of torch's collectives, done.

    Raises:
        PeerFailed: another process has failed.
    """
    alarm.check()
    alarm.finish(exchange(*arguments, async_op=True))


def stacked(numbers: Sequence[int]) -> list[list[int]]:
    """The numbers of every process, in the order of the processes."""
    if count() == 1:
        return [list(numbers)]
    own = torch.tensor(numbers, device=device())
    rows = [torch.empty_like(own) for _ in range(count())]
    _exchanged(dist.all_gather, rows, own)
    lines = [row.tolist() for row in rows]
    alarm.check()  # an exchange on a GPU that was given up ends with any numbers
    return lines


@torch.no_grad()
def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor summed over processes. They travel in buckets, so that many small ones cost little and large ones need little memory beside them."""
    if count() == 1:
        return list(tensors)
    sums = list(tensors)
    for bucket in _buckets(tensors):
        flat = torch.cat([tensors[i].detach().flatten() for i in bucket])
        _exchanged(dist.all_reduce, flat)
        for i, part in zip(bucket, flat.split([tensors[i].numel() for i in bucket]), strict=True):
            sums[i] = part.view(tensors[i].shape)
    return sums


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Numbers of tensors of one type and device, at most ``BUCKET`` bytes together where several."""
    for _, group in itertools.groupby(sorted(range(len(tensors)), key=lambda i: _kind(tensors[i])), key=lambda i: _kind(tensors[i])):
        bucket: list[int] = []
        size = 0
        for i in group:
            if bucket and size + tensors[i].nbytes > BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(i)
            size += tensors[i].nbytes
        yield bucket


def _kind(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.device), str(tensor.dtype)


@torch.no_grad()
def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sums the gradients over processes, in place. Where no process has a gradient there is none afterwards either, so that optimisers leave it alone."""
    if count() == 1 or not parameters:
        return
    has = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32, device=parameters[0].device)
    *sums, had = summed([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters] + [has])
    for parameter, total, some in zip(parameters, sums, had.tolist(), strict=True):
        if some:
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(total)  # keeps the parameter's layout: a fused optimiser goes through the memory of both and looks at no strides


@torch.no_grad()
def gathered(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of every process below each other, in the order of the processes; each may have another number of them. Values arrive bit for bit."""
    if count() == 1 or not rows:
        return dict(rows)
    names = sorted(rows)
    numbers = stacked([len(rows[name]) for name in names])
    own = torch.cat([rows[name].detach().contiguous().flatten().view(torch.uint8) for name in names])
    width = {name: rows[name][:1].numel() * rows[name].element_size() if len(rows[name]) else _width(rows[name]) for name in names}
    sizes = [[number * width[name] for number, name in zip(line, names, strict=True)] for line in numbers]
    longest = max(map(sum, sizes))
    padded = torch.cat([own, own.new_zeros(longest - len(own))])
    arrived = [torch.empty_like(padded) for _ in range(count())]
    _exchanged(dist.all_gather, arrived, padded)
    parts = [line[: sum(size)].split(size) for line, size in zip(arrived, sizes, strict=True)]
    return {name: torch.cat([_typed(part[i], rows[name]) for part in parts]) for i, name in enumerate(names)}


def _width(rows: Tensor) -> int:
    return rows.new_empty(1, *rows.shape[1:]).nbytes


def _typed(data: Tensor, like: Tensor) -> Tensor:
    return data.clone().view(like.dtype).view(-1, *like.shape[1:])


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Every process takes the values that the first one has."""
    for tensor in tensors if count() > 1 else ():
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)  # where one axis has length 1, two layouts of the same memory are contiguous
        _exchanged(dist.broadcast, whole.flatten().view(torch.uint8), 0)  # as bytes: gloo knows no whole numbers of 16 bits
        tensor.copy_(whole)


class _Total(torch.autograd.Function):
    """A sum over processes whose gradient is summed over processes too, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        """The sum."""
        x = x.clone()
        _exchanged(dist.all_reduce, x)
        return x

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        """The sum of what comes from each process."""
        gradient = gradient.clone()
        _exchanged(dist.all_reduce, gradient)
        return gradient


def total(x: Tensor) -> Tensor:
    """The sum over processes, with a gradient.

    Each process's loss must carry its part of the batch's weight when it is differentiated, as the loop does; for losses that are means over equal shares it
    may as well carry it afterwards.
    """
    return x if count() == 1 else _Total.apply(x)


def shared_mean(mean: Tensor, rows: int) -> Tensor:
    """The mean over the rows of all processes, of which each gives that of its own, with a gradient as :func:`total`'s."""
    if count() == 1:
        return mean
    packed = total(torch.cat([mean.flatten() * rows, mean.new_tensor([float(rows)])]))
    return packed[:-1].view(mean.shape) / packed[-1].detach()


def averaged(tensors: Sequence[Tensor], rows: int) -> list[Tensor]:
    """The mean over processes of tensors that are means over ``rows`` rows of this process, without a gradient: what they are for the whole batch.

    Whatever a learner computes from gradients or means of its rows and then uses in a formula that is not linear in them goes through here first, such as
    the two gradient norms whose ratio is VQGAN's lambda.
    """
    if count() == 1:
        return [tensor.detach() for tensor in tensors]
    *sums, number = summed([*(tensor.detach() * rows for tensor in tensors), tensors[0].new_tensor(float(rows))])
    return [total / number for total in sums]


def moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and (biased) variance of the whole batch over some axes, kept, with a gradient; and over how many numbers they are.

    In float32 at least: 16 bits count to a few hundred.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    rows = x.sum(dims, keepdim=True)
    packed = total(torch.cat([rows.flatten(), rows.new_tensor([math.prod(x.shape[dim] for dim in dims)])]))
    mean, number = packed[:-1].view(rows.shape) / packed[-1], packed[-1].detach()
    return mean, total((x - mean).square().sum(dims, keepdim=True)) / number, number


class Together:
    """``with Together() as step: ...``: either every process comes through, or all of them stop.

    An error inside it is told to the others at once (``alarm``), which raise :class:`PeerFailed` with its text: where they wait for this process, be it at the
    end of it or in an exchange of their own (:func:`total`, :func:`averaged`) that the failed process never came to.

    Attributes:
        number: what this process says.
        numbers: afterwards, what each said.
    """

    def __init__(self) -> None:
        self.number = 0
        self.numbers = [0]
        self._watch = Watch()

    def __enter__(self) -> "Together":
        self._watch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self.numbers = [number for (number,) in stacked([self.number])]
        finally:
            self._watch.__exit__(kind, error, trace)


def any_of(flag: bool) -> bool:
    """Whether it is true of any process: the same answer for all of them."""
    return any(row[0] for row in stacked([int(flag)]))
