"""Batch norm over the rows of all processes, on CPUs as on GPUs (``torch.nn.SyncBatchNorm`` knows only GPUs)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.described import Described
from latentcomp.processes import count, moments


class SharedBatchNorm2d(Described, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``, whose moments in training are those of the whole batch however many processes share it."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The normalised map."""
        if not self.training or count() == 1:
            return super().forward(x)
        mean, variance, number = moments(x, (0, 2, 3))
        self._remember(mean.flatten(), variance.flatten() * number / (number - 1).clamp_min(1))
        y = (x - mean) * (variance + self.eps).rsqrt()
        return (y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1) if self.affine else y).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, " C"], variance: Float[Tensor, " C"]) -> None:
        """The running moments; a momentum of None is their plain mean over all batches."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
