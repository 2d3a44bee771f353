"""Nearest codes of many vectors, and the vectors of many codes.

argmin_k ||h - e_k||^2 does not need |h|^2, and |e_k|^2 / 2 - h.e_k is one matrix product whose K columns start from |e_k|^2 / 2. What a plain
implementation pays for is memory: the table of all M K distances is written, read and thrown away, and an argmin goes through it number by number. Here some
hundred rows at a time stay in the cache; the least distance of each of K / 128 blocks costs one vectorised pass, and only the best block is searched for its
place. The result is that of argmin on the whole table, ties (the first) and nan (counts as least) included.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 128  # codes whose least distance is taken in one vectorised pass
ROWS = 512  # fewer rows at a time make matrix products slow
CACHED, LARGE = 2**22, 2**27  # distances held at a time: what a CPU's cache takes, and what an accelerator's memory takes


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one type, float32 or better."""
    kind = torch.float32
    for tensor in tensors:
        kind = torch.promote_types(kind, tensor.dtype)
    return [tensor.to(kind) for tensor in tensors]


def squared_distances(h: Float[Tensor, "*B D"], weight: Float[Tensor, "K D"]) -> Float[Tensor, "*B K"]:
    """||h - e_k||^2 in float32 or better, as |h|^2 - 2 h.e_k + |e_k|^2: one matrix product."""
    h, weight = at_least_float32(h, weight)
    with torch.autocast(h.device.type, enabled=False):
        return h.square().sum(-1, keepdim=True) - 2 * h @ weight.T + weight.square().sum(-1)


@torch.no_grad()
def nearest_code(h: Float[Tensor, "*B D"], vectors: Float[Tensor, "K D"], exists: Bool[Tensor, "N K"] | None = None) -> Int[Tensor, "*B"]:
    """argmin_k ||h - e_k||^2, the first of equals; with ``exists``, for h ``(*B, N, D)``, site i chooses among its own codes.

    Raises:
        ValueError: h and the codes have different dimensions.
    """
    if h.shape[-1] != vectors.shape[-1]:
        raise ValueError(f"vectors of D={h.shape[-1]} have no nearest code among codes of D={vectors.shape[-1]}: build encoder and codebook with one width")
    rows, vectors = at_least_float32(h.reshape(-1, h.shape[-1]), vectors)
    size = max(ROWS, (CACHED if rows.is_cpu else LARGE) // len(vectors))
    table = rows.new_full((min(size, len(rows)), -(-len(vectors) // BLOCK) * BLOCK), math.inf)  # what lies behind the last code stays infinitely far away
    half = vectors.square().sum(-1) / 2
    z = torch.empty(len(rows), dtype=torch.long, device=h.device)
    with torch.autocast(h.device.type, enabled=False):
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            distances = table[: len(part)]
            torch.addmm(half, part, vectors.T, alpha=-1, out=distances[:, : len(vectors)])
            if exists is not None:
                sites = torch.arange(start, start + len(part), device=h.device) % len(exists)
                distances[:, : len(vectors)].masked_fill_(~exists[sites], math.inf)
            z[start : start + size] = _argmin(distances)
    return z.view(h.shape[:-1])


def _argmin(distances: Float[Tensor, "M B"]) -> Int[Tensor, " M"]:
    """The place of the least number of each row, by way of the least of each block."""
    blocks = rearrange(distances, "m (g k) -> m g k", k=BLOCK)
    best = blocks.amin(-1).argmin(-1)
    within = blocks[torch.arange(len(blocks), device=blocks.device), best].argmin(-1)
    return best * BLOCK + within


def lookup(z: Int[Tensor, "*B"], vectors: Float[Tensor, "K D"]) -> Float[Tensor, "*B D"]:
    """e_z, with a gradient in the vectors.

    Raises:
        TypeError: the codes are no whole numbers.
        ValueError: a code lies outside 0..K-1 (on an accelerator, where looking would stall it, the device's own assertion says so instead).
    """
    if z.is_floating_point() or z.dtype == torch.bool:
        raise TypeError(f"codes are whole numbers (torch.long), got {z.dtype}: pass indices, or embeddings to model.decode")
    try:
        return vectors.index_select(0, z.flatten()).view(*z.shape, vectors.shape[-1])  # its gradient is one index_add, where embedding's goes row by row
    except IndexError:
        raise ValueError(
            f"codes must lie in 0..{len(vectors) - 1} (K={len(vectors)}); got values from {int(z.min())} to {int(z.max())}. "
            "Build the codebook and the prior with the same K as the codes you pass."
        ) from None
