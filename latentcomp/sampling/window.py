"""Codes of grids larger than the prior's: a window slides over the grid, row by row (Esser et al., 2021, section 3.3 and figure 5).

The prior writes h x w codes. For the site (i, j) of an H x W grid the window lies so that the site is in its middle, or as near to that as the border of the
grid allows; what it has written of the window, and the condition's codes there, are the site's context. Sites of one row whose windows are the same are
written together: the context is read once, in one pass, and they follow from the cache of keys and values. With ``stride`` 1 every inner site has a window
of its own, as published; a larger one moves the window in steps and reads so many times less.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.noise import Noise

Writer = Callable[[Tensor | None], CodeDistribution]
"""From a window's condition codes ``(B, M)``, or None, to the distribution of its codes."""


@runtime_checkable
class WindowCondition(Protocol):
    """The condition's codes of each window."""

    def __call__(self, top: int, left: int, window: Sequence[int], grid: Sequence[int]) -> Tensor:
        """Codes ``(B, M)`` of the window whose first site is (top, left)."""
        ...


class Everywhere(NamedTuple):
    """One condition for all windows, such as a class label.

    Attributes:
        r: its codes ``(B, M)``.
    """

    r: Tensor

    def __call__(self, top: int, left: int, window: Sequence[int], grid: Sequence[int]) -> Tensor:
        """The same codes."""
        return self.r


class Cropped(NamedTuple):
    """A condition that is a map: each window gets its part of it.

    Attributes:
        r: codes ``(B, H', W')`` of the whole grid; H' and W' may differ from the grid's, as long as windows begin and end between its codes.
    """

    r: Tensor

    def __call__(self, top: int, left: int, window: Sequence[int], grid: Sequence[int]) -> Tensor:
        """The part, row by row.

        Raises:
            ValueError: the window cuts through codes of the map.
        """
        rows, columns = (self._part(start, length, of, axis) for start, length, of, axis in zip((top, left), window, grid, (1, 2), strict=True))
        return self.r[:, rows, columns].flatten(1)

    def _part(self, start: int, length: int, of: int, axis: int) -> slice:
        side = self.r.shape[axis]
        if start * side % of or length * side % of:
            raise ValueError(
                f"a window from {start} to {start + length} of {of} sites cuts through the {side} codes of the condition's map: give it as many codes as the "
                "grid, or a stride that is a multiple of a code's width"
            )
        return slice(start * side // of, (start + length) * side // of)


class Run(NamedTuple):
    """Sites that one window writes: from (row, column) on, so many of them in the window's own order.

    Attributes:
        top: the window's first row in the grid.
        left: its first column.
        first: the first site's number in the window.
        length: how many.
    """

    top: int
    left: int
    first: int
    length: int


def origin(site: int, side: int, window: int, stride: int = 1) -> int:
    """Where the window of a site begins, along one axis: in steps of the stride, the site in its middle or behind, inside the grid."""
    return min(max((site - window // 2) // stride * stride, 0), side - window)


def runs(grid: Sequence[int], window: Sequence[int], stride: int = 1, start: int = 0) -> Iterator[Run]:
    """The runs that together write all sites of a grid once, in raster order, from the row ``start`` on."""
    run: Run | None = None
    for i in range(start, grid[0]):
        top = origin(i, grid[0], window[0], stride)
        for j in range(grid[1]):
            left = origin(j, grid[1], window[1], stride)
            number = (i - top) * window[1] + j - left
            if run is not None and (top, left, number) == (run.top, run.left, run.first + run.length):
                run = run._replace(length=run.length + 1)
                continue
            if run is not None:
                yield run
            run = Run(top, left, number, 1)
    if run is not None:
        yield run


@torch.no_grad()
def slide(
    writer: Writer,
    grid: Sequence[int],
    window: Sequence[int],
    rows: int = 1,
    condition: WindowCondition | None = None,
    given: Int[Tensor, "B a W"] | None = None,
    stride: int = 1,
    noise: Noise | None = None,
) -> Int[Tensor, "B H W"]:
    """Codes of a grid of any size. With the window's own size they are what the prior's ``sample`` gives for the same noise.

    Args:
        writer: such as ``lambda r: TruncatedCodes(network, r, top_k=100)``; it must write row by row.
        grid: (H, W).
        window: (h, w), the grid that the prior was trained on.
        rows: B, how many grids.
        condition: the condition's codes by window; None for a prior without one.
        given: the first rows of the grids, which are kept.
        stride: how far the window moves at once, at most half of it.
        noise: a stream for each grid; by default the draws follow ``torch.manual_seed``.

    Raises:
        TypeError: the prior does not write row by row.
        ValueError: the window is larger than the grid or is not the prior's, the network was built for another order of sites, the stride is too large,
            there are no grids to draw, or the given rows have another width or are of another number of grids.
    """
    check_grid(grid, window, given, rows)
    _check_stride(window, stride)
    first = writer(None if condition is None else condition(0, 0, window, grid))
    _check_writer(first, window)
    start = 0 if given is None else given.shape[1]
    z = torch.zeros(rows, *grid, dtype=torch.long, device=first._device)
    if given is not None:
        z[:, :start] = given
    u = (noise or Noise.fresh(rows, first._device)).uniform((), tuple(grid))
    for run in runs(grid, window, stride, start):
        square = (slice(None), slice(run.top, run.top + window[0]), slice(run.left, run.left + window[1]))
        q = first if condition is None else writer(condition(run.top, run.left, window, grid))
        end = run.first + run.length
        patch, numbers = z[square].flatten(1), u[square].flatten(1)
        patch[:, :end] = q.extended(patch[:, : run.first], numbers[:, run.first : end])  # type: ignore[attr-defined]  # checked above
        z[square] = patch.view(rows, *window)
    return z


def check_grid(grid: Sequence[int], window: Sequence[int], given: Tensor | None, rows: int) -> None:
    """Refuses no grids at all, a grid that a window does not fit into, or first rows that do not fit into so many grids.

    Raises:
        ValueError: names both.
    """
    if rows < 1:
        raise ValueError(f"rows is how many grids are drawn, one or more; got {rows}")
    if len(grid) != 2 or len(window) != 2 or window[0] > grid[0] or window[1] > grid[1] or min(window) < 1:
        raise ValueError(f"the window ({window[0]} x {window[1]}) must fit into the grid ({grid[0]} x {grid[1]}): ask for a grid at least as large")
    if given is not None and (given.ndim != 3 or len(given) != rows or given.shape[2] != grid[1] or given.shape[1] > grid[0]):
        wanted = f"the first rows of {rows} grid(s) of {grid[0]} x {grid[1]} codes have shape ({rows}, at most {grid[0]}, {grid[1]})"
        raise ValueError(f"{wanted}; got {tuple(given.shape)}")


def check_sites(q: CodeDistribution, window: Sequence[int]) -> None:
    """Refuses a prior that does not write windows of this size.

    Raises:
        ValueError: names both.
    """
    if len(q.cardinalities) != window[0] * window[1]:
        raise ValueError(f"the prior writes {len(q.cardinalities)} codes, no window of {window[0]} x {window[1]}: give the grid that it was trained on")


def _check_stride(window: Sequence[int], stride: int) -> None:
    if not 1 <= stride <= (min(window) + 1) // 2:
        raise ValueError(f"the window moves by 1 to {(min(window) + 1) // 2} sites, half of its smaller side; got stride={stride}")


def _check_writer(q: CodeDistribution, window: Sequence[int]) -> None:
    if not isinstance(q, AutoregressiveCodes):
        raise TypeError(
            f"a window slides row by row, but {type(q).__name__} does not write so: use an autoregressive prior in raster order, or patchwork, which takes any"
        )
    check_sites(q, window)
    if q.network.order is not None and not torch.equal(q.network.order.cpu(), torch.arange(len(q.cardinalities))):
        raise ValueError(f"a window slides row by row, but {type(q.network).__name__} was built for another order of sites: give patchwork its InOrder")
