"""How many images are decoded at once where nothing else says it: as many as their widest layer leaves in one small piece of memory.

A decoder's time in an estimate is that of its last layers, whose activations are its largest. On a CPU they cost more the less of them stays near the
processor; and above 32 MiB the C library asks the system for fresh pages at each layer, which are filled with zeros first. A decoder of 128 channels at
28x28 takes a tenth longer for each of 256 images than for each of 64. An accelerator wants many images to keep all its processors busy.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latentcomp.model import LatentVariableModel

NEAR, FAR = 25 * 2**20, 2**30  # bytes that the widest layer may leave on a CPU, and on an accelerator
MOST = 4096  # images: the codes of more would wait for nothing


@torch.no_grad()
def images_at_once(model: LatentVariableModel) -> int:
    """From one image, which is decoded to see how wide the layers are; it is not counted as decoded."""
    like = next(model.decoder.parameters())
    z = torch.zeros(1, len(model.cardinalities), dtype=torch.long, device=like.device)
    e = model.codebook(z)
    with _widest(model.decoder) as sizes:
        model.decoder(e)
    room = NEAR if like.is_cpu else FAR
    return min(MOST, max(1, room // (like.element_size() * max(sizes))))


@contextmanager
def _widest(network: nn.Module) -> Iterator[list[int]]:
    """Gathers the numbers that each layer leaves."""
    sizes = [1]

    def note(module: nn.Module, given: Any, left: Any) -> None:
        if isinstance(left, Tensor):
            sizes.append(math.prod(left.shape))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        yield sizes
    finally:
        for hook in hooks:
            hook.remove()
