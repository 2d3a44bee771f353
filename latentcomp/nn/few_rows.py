"""A linear layer for a few rows, such as one step of sampling has: what it costs is the reading of its weights.

torch computes x W^T with the rows of x on the left, for which BLAS libraries first copy W into another layout; with a handful of rows the copy costs more than
the product. On the other side, W x^T, short rows of W are read where they lie.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

ROWS, ENTRIES = 8, 3072
"""Up to so many rows, with so many entries together, W x^T is the faster product on a CPU."""


def linear(layer: nn.Module, x: Float[Tensor, "*rows I"]) -> Float[Tensor, "*rows O"]:
    """``layer(x)``, for a few rows by the other product, with the strides of a transposed matrix."""
    x = x.contiguous()
    if type(layer) is not nn.Linear or x.ndim != 2 or not 1 < len(x) <= ROWS or x.numel() > ENTRIES or not x.is_cpu:
        return layer(x)
    if layer.bias is None:
        return torch.mm(layer.weight, x.t()).t()
    return torch.addmm(layer.bias.unsqueeze(1), layer.weight, x.t()).t()
