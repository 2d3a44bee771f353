"""Sets of codes: which of several sequences for one datum occur for the first time."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def repeated(z: Int[Tensor, "*rows C N"]) -> Bool[Tensor, "*rows C"]:
    """Whether a sequence equals one that stands before it in its row: the others are the row's distinct codes."""
    equal = (z.unsqueeze(-2) == z.unsqueeze(-3)).all(-1)
    before = torch.ones(equal.shape[-2:], dtype=torch.bool, device=z.device).tril(-1)
    return (equal & before).any(-1)
