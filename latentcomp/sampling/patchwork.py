"""Codes of grids larger than the prior's, whatever order it writes in: windows are completed one after the other.

Where a prior writes row by row, what a window has of its neighbours above and to the left is the beginning of its sequence, and :func:`slide` goes site by
site. In another order it is not. So here a window is laid over the grid in steps, from left to right and from above, and the codes of it that are not there
yet are drawn as the prior completes them: each given those before it in the prior's own order, whether a neighbour has written them or they have just been
drawn; of a masked prior, given all that are there.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp.noise import Noise
from latentcomp.sampling.window import WindowCondition, Writer, check_grid, check_sites


def starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: in steps of the stride, the last one at the end."""
    return [*range(0, side - window, stride), side - window]


def places(grid: Sequence[int], window: Sequence[int], stride: int) -> Iterator[tuple[int, int]]:
    """Where windows begin, (top, left), row by row."""
    return ((top, left) for top in starts(grid[0], window[0], stride) for left in starts(grid[1], window[1], stride))


@torch.no_grad()
def patchwork(
    writer: Writer,
    grid: Sequence[int],
    window: Sequence[int],
    rows: int = 1,
    condition: WindowCondition | None = None,
    given: Int[Tensor, "B a W"] | None = None,
    stride: int | None = None,
    noise: Noise | None = None,
) -> Int[Tensor, "B H W"]:
    """Codes of a grid of any size. With the window's own size they are what the prior's ``sample`` gives for the same noise.

    Args:
        writer: such as ``lambda r: Drawing(top_k=100).given(prior, r)``, of a prior in any order, or a masked one.
        grid: (H, W).
        window: (h, w), the grid that the prior was trained on.
        rows: B, how many grids.
        condition: the condition's codes by window; None for a prior without one.
        given: the first rows of the grids, which are kept.
        stride: how far the window moves at once, at most its smaller side; None for half of that.
        noise: a stream for each grid; by default the draws follow ``torch.manual_seed``.

    Raises:
        TypeError: the prior cannot complete a part of what it writes.
        ValueError: the window is larger than the grid or is not the prior's, the stride is too large, there are no grids to draw, or the
            given rows have another width or are of another number of grids.
    """
    check_grid(grid, window, given, rows)
    step = max(1, min(window) // 2) if stride is None else stride
    if not 1 <= step <= min(window):
        raise ValueError(f"the window moves by 1 to {min(window)} sites, its smaller side; got stride={step}")
    q = writer(None if condition is None else condition(0, 0, window, grid))
    check_sites(q, window)
    noise = noise or Noise.fresh(rows, q._device)
    z = torch.zeros(rows, *grid, dtype=torch.long, device=q._device)
    hidden = torch.ones(1, *grid, dtype=torch.bool, device=q._device)
    if given is not None:
        z[:, : given.shape[1]], hidden[:, : given.shape[1]] = given, False
    for top, left in places(grid, window, step):
        square = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
        if condition is not None:
            q = writer(condition(top, left, window, grid))
        z[square] = q.completed(z[square].flatten(1), hidden[square].flatten(1).expand(rows, -1), noise).view(rows, *window)
        hidden[square] = False
    return z
