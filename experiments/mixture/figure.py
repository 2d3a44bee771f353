"""The figure of the clusters found: points, true and learned means, of each method's best run and of its worst."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.cells import Spec, label
from experiments.figures import EXACT, STYLE, Run, Runs, _bytes, colour
from experiments.mixture.data import offsets

METHODS = ("exact_em", "variational_em", "gflownet_em")
CAPTION = (
    "Of each method the run of the highest likelihood and that of the lowest, with log p(x) in nats per point. Grey: a quarter of the points; circles: the "
    "true means; diamonds with four arms: the learned means and where their petals lie. A run has failed where a circle has no diamond."
)


def pictures(runs: Runs, spec: Spec) -> list[tuple[str, str, bytes]]:
    """What the mixture's report shows besides summary and curves: title, caption, file."""
    return [("Clusters found", CAPTION, clusters(runs, spec))]


@matplotlib.rc_context(STYLE)
def clusters(runs: Runs, spec: Spec) -> bytes:
    """PNG: best runs above, worst runs below, a column for each method."""
    rows = [row for row in METHODS if row in runs]
    figure = Figure((9, 6.6), layout="constrained")
    panels = figure.subplots(2, len(rows), sharex=True, sharey=True, squeeze=False)
    for column, row in enumerate(rows):
        seeds = sorted(runs[row], key=lambda seed, row=row: runs[row][seed]["log_px"])  # type: ignore[misc]
        for axes, seed, which in zip(panels[:, column], (seeds[-1], seeds[0]), ("best", "worst"), strict=True):
            run = runs[row][seed]
            _panel(axes, run, colour(spec, row))
            _name(axes, label(spec, row) if which == "best" else "", f"{which} of {len(seeds)} runs (seed {seed}): {run['log_px']:.3f}".replace("-", "−"))
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4)
    return _bytes(figure, "png")


def _panel(axes: Axes, run: Run, shade: str) -> None:
    x, y = run["points"].T.numpy()
    axes.scatter(x, y, s=2.5, color="#bbbbbb", linewidths=0, zorder=1)
    for mean in run["means"].double().numpy():
        for petal in mean + offsets().numpy():
            axes.plot(*np.stack([mean, petal]).T, color=shade, linewidth=1.2, zorder=2)
        axes.plot(*(mean + offsets().numpy()).T, "o", color=shade, markersize=2.8, markeredgewidth=0, zorder=2)
        axes.plot(*mean, "D", color=shade, markersize=7, markeredgecolor="white", markeredgewidth=1, zorder=3)
    axes.plot(*run["truth"].T.numpy(), "o", markersize=14, markerfacecolor="none", markeredgecolor="black", markeredgewidth=1.3, linestyle="none", zorder=4)
    axes.set(aspect="equal", xticks=(), yticks=())  # no limits: a mean that went astray is to be seen
    axes.spines[:].set_visible(False)


def _name(axes: Axes, method: str, run: str) -> None:
    axes.set_title(run, color=EXACT)
    if method:
        axes.annotate(method, (0, 1), (0, 22), "axes fraction", "offset points", fontsize=11, fontweight="bold", va="bottom")


def _legend() -> list[Any]:
    return [
        Line2D([], [], marker="o", color="#bbbbbb", markersize=4, linestyle="none", label="points"),
        Line2D([], [], marker="o", color="black", markerfacecolor="none", markersize=11, linestyle="none", label="true means"),
        Line2D([], [], marker="D", color=EXACT, markersize=6, linestyle="none", label="learned means, in the method's colour"),
        Line2D([], [], marker="o", color=EXACT, markersize=3, linewidth=1.2, label="their petals"),
    ]
