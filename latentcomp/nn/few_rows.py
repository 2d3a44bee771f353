"""A linear layer for a few rows, such as one step of sampling has: what it costs is the reading of its weights.

torch computes x W^T with the rows of x on the left, for which BLAS libraries first copy W into another layout; with a handful of rows the copy costs more than
the product. On the other side, W x^T, short rows of W are read where they lie.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

ROWS, ENTRIES = 8, 3072
"""Up to so many rows, with so many entries together, W x^T is the faster product on a CPU."""


def linear(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer as a function of rows ``(R, I)``, for a few of them by the other product and with the strides of a transposed matrix.

    It asks the module for its weights once, not at each of a walk's steps.
    """
    if type(layer) is not nn.Linear:
        return layer
    weight, bias = layer.weight, layer.bias
    column = None if bias is None else bias.unsqueeze(1)

    def product(x: Float[Tensor, "R I"]) -> Float[Tensor, "R O"]:
        x = x.contiguous()
        if not 1 < len(x) <= ROWS or x.numel() > ENTRIES or not x.is_cpu:
            return functional.linear(x, weight, bias)
        return (torch.mm(weight, x.t()) if column is None else torch.addmm(column, weight, x.t())).t()

    return product
