"""What the reports of these tables show besides summary and curves."""

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figures
from experiments.cells import Spec, groups, label
from experiments.figures import STYLE, Runs, _bytes, colour
from experiments.report import Picture

DRAWN = (
    "Mean pictures of codes drawn from each row's prior, not cut off; of a condition, those of the first test pictures (first seed). Rows that draw from one "
    "prior are shown once."
)
TIMED = (
    "The same looks as above over the seconds of training that came before them, looks and saves excluded: all seeds (thin) and their mean over looks "
    "(thick). At equal time two lines end at the same place on the right; at equal updates they need not."
)
USED = "Every seed of every row (dots, and a ring at the mean): the share of the codes that all test pictures together use, and rFID of their reconstructions."
MARKS = "osD^vP*Xhp<>dH8"


def samples(runs: Runs, spec: Spec) -> list[Picture]:
    """Samples of the rows' priors."""
    return [Picture("Samples", DRAWN, figures.samples(distinct(runs), spec))]


def distinct(runs: Runs) -> Runs:
    """Of rows with the same samples, because they cut off and reject what one prior gives, the first."""
    drawn, kept = figures.first(runs), list[str]()
    for row in runs:
        if not any(torch.equal(drawn[row]["samples"], drawn[other]["samples"]) for other in kept):
            kept.append(row)
    return {row: runs[row] for row in kept}


def timed(runs: Runs, spec: Spec) -> list[Picture]:
    """Validation over time, and samples."""
    return [Picture("Over time", TIMED, over_time(runs, spec)), *samples(runs, spec)]


def reconstructions(runs: Runs, spec: Spec) -> list[Picture]:
    """Use of the codes against rFID, and reconstructions of test pictures."""
    caption = "Test pictures, and the mean picture at the posterior's most probable codes (first seed)."
    return [Picture("Use and rFID", USED, use(runs, spec)), Picture("Reconstructions", caption, figures.reconstructions(runs, spec))]


@matplotlib.rc_context(STYLE)
def over_time(runs: Runs, spec: Spec) -> bytes:
    """SVG: the watched number over the seconds of training, a panel for each group of rows, three abreast."""
    members = [[row for row in rows if row in runs] for rows in groups(spec).values()]
    members = [rows for rows in members if rows]
    lines = -(-len(members) // 3)
    figure = Figure((9, 0.4 + 2.9 * lines), layout="constrained")
    figure.supxlabel("Training (s)")
    figure.supylabel(spec["watched"])
    panels = figure.subplots(lines, 3, squeeze=False).ravel()
    for axes, rows in zip(panels, members, strict=False):
        _over_time(axes, runs, spec, rows)
    for axes in panels[len(members) :]:
        axes.set_axis_off()
    return _bytes(figure, "svg")


def _over_time(axes: Axes, runs: Runs, spec: Spec, rows: list[str]) -> None:
    best = []
    for row in rows:
        seeds = [np.array([(look["seconds"], look["val_nll"]) for look in run["curve"]]).T for run in runs[row].values()]
        for seconds, nll in seeds:
            axes.plot(seconds, nll, color=colour(spec, row), linewidth=0.6, alpha=0.5)
            best.append(nll.min())
        axes.plot(*figures.mean_of(seeds), color=colour(spec, row), linewidth=1.8, label=label(spec, row))
    spread = max(best) - min(best) or 1.0
    axes.set_ylim(min(best) - 0.1 * spread, max(best) + 1.5 * spread)
    axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)  # above: curves that turn up again cross every corner


@matplotlib.rc_context(STYLE)
def use(runs: Runs, spec: Spec) -> bytes:
    """SVG: rFID over the share of codes in use, a mark for each row."""
    figure = Figure((9, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, mark in zip(runs, MARKS, strict=False):
        points = np.array([run["point"].numpy() for run in runs[row].values()])
        axes.plot(*points.T, mark, color=colour(spec, row), markersize=4, markeredgewidth=0, alpha=0.6)
        axes.plot(*points.mean(0), mark, color=colour(spec, row), markersize=9, markerfacecolor="none", label=label(spec, row))
    axes.set(xlabel="Codes in use (%)", ylabel="rFID, test", yscale="log", xlim=(-3, 103))
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=7.5)
    return _bytes(figure, "svg")
