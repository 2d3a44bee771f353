"""How many images a network decodes at once where no gradient is wanted: as many as its widest layer leaves in one small piece of memory.

The time of a decoder is that of its last layers, whose activations are its largest. On a CPU they cost more the less of them stays near the processor; and
above 32 MiB the C library asks the system for fresh pages at each layer, which are filled with zeros first. An E-step of the discrete VAE, whose codes are
judged without a gradient, is timed by ``python -m benchmarks.gflownet_em``. An accelerator wants many images, to keep all its
processors busy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NEAR, FAR = 25 * 2**20, 2**30
"""Bytes that the widest layer may leave, on a CPU and on an accelerator."""


def images_at_once(numbers: int, like: Tensor) -> int:
    """How many images leave no more than that.

    Args:
        numbers: how many the widest layer leaves of one image.
        like: says where they lie and how large a number is.
    """
    return max(1, (NEAR if like.is_cpu else FAR) // (like.element_size() * numbers))


def in_chunks(network: nn.Module, rows: Tensor, at_once: int) -> Tensor:
    """What the network makes of the rows, so many at a time, unless it would make something else of them: a batch norm may read its whole batch."""
    if len(rows) <= at_once or any(isinstance(module, _BatchNorm) and takes_moments(module) for module in network.modules()):
        return network(rows)
    return torch.cat([network(part) for part in rows.split(at_once)])


def takes_moments(norm: _BatchNorm) -> bool:
    """Of the batch that it is given, instead of those that it remembers."""
    return norm.training or norm.running_mean is None


@contextmanager
def widest(network: nn.Module) -> Iterator[list[int]]:
    """Gathers how many numbers each of the network's layers leaves while it reads one row, in evaluation: what learns from a batch does not learn from it."""
    sizes, modes = [1], {module: module.training for module in network.modules()}

    def note(module: nn.Module, given: Any, left: Any) -> None:
        if isinstance(left, Tensor):
            sizes.append(math.prod(left.shape))

    hooks = [module.register_forward_hook(note) for module in modes]
    network.eval()
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
