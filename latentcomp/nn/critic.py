"""The patch critic of VQGAN (Isola et al., 2017, "pix2pix"): one logit for each overlapping patch of an image, real against made.

Convolutions of width 4: some of stride 2 that double the channels, two of stride 1. With three of stride 2 a patch has 70 x 70 pixels. Batch norm is the
published default; its running statistics are state that a forward pass writes in training, and its logits of one image depend on the others of the batch,
so that a split of the batch changes them. ``ActNorm`` learns a shift and a scale instead, set by the first batch. ``group_norm`` has neither state nor memory.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described, nameable
from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.processes import moments


class ActNorm(Described, nn.Module):
    """scale (x + shift), channel by channel, set by the first batch in training, that of all processes, so that it comes out with mean 0 and variance 1
    (Kingma and Dhariwal, 2018).

    Args:
        channels: C.
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialised", torch.tensor(0, dtype=torch.uint8))
        self._waits: bool | None = True

    @property
    def waits(self) -> bool:
        """Whether the first batch is yet to come."""
        if self._waits is None:  # a state was loaded: look once, not at each step, since looking stalls an accelerator
            self._waits = not bool(self.initialised)
        return self._waits

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._waits = None

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The shifted and scaled map."""
        if self.training and self.waits:
            self._initialise(x)
        return self.scale * (x + self.shift)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        mean, variance, number = moments(x, (0, 2, 3))
        self.shift.copy_(-mean)
        self.scale.copy_(1 / ((variance * number / (number - 1)).sqrt() + 1e-6))
        self.initialised.fill_(1)
        self._waits = False


@nameable
def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of up to 32 groups: nothing of another image of the batch, and no state."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class PatchCritic(Described, nn.Module):
    """Images ``(B, C, H, W)`` to logits ``(B, 1, h, w)``, positive for real: 30 x 30 of them for 256 x 256 pixels.

    Args:
        inputs: C; with a condition stacked on the image, its channels too.
        channels: the width behind the first convolution.
        layers: convolutions of stride 2.
        norm: makes the normalisation of so many channels: ``SharedBatchNorm2d``, which in one process is ``torch.nn.BatchNorm2d``, :class:`ActNorm` or
            :func:`group_norm`.
    """

    def __init__(self, inputs: int = 3, channels: int = 64, layers: int = 3, norm: Callable[[int], nn.Module] = SharedBatchNorm2d) -> None:
        super().__init__()
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        centred = isinstance(norm, type) and issubclass(norm, nn.BatchNorm2d)  # it subtracts the mean, so that a bias before it would do nothing
        stack: list[nn.Module] = [nn.Conv2d(inputs, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(pairwise(widths), 1):
            stack += [nn.Conv2d(a, b, 4, 2 if i < layers else 1, 1, bias=not centred), norm(b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        self.inputs, self.least = inputs, 3 * 2**layers
        self.apply(_initialise)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """The logits.

        Raises:
            ValueError: the images are smaller than a patch needs, or have another number of channels.
        """
        self.check(x)
        return self.layers(x)

    def check(self, x: Float[Tensor, "B C H W"]) -> None:
        """Refuses images that it cannot judge.

        Raises:
            ValueError: they are smaller than a patch needs, or have another number of channels.
        """
        if min(x.shape[-2:]) < self.least or x.shape[1] != self.inputs:
            raise ValueError(
                f"the critic judges images of {self.inputs} channel(s) and at least {self.least} x {self.least} pixels; got {x.shape[1]} of {x.shape[-2]} x "
                f"{x.shape[-1]}: build PatchCritic with inputs={x.shape[1]} and fewer layers (with n, images need 3 * 2^n pixels a side), or enlarge them"
            )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
