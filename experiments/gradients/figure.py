"""The figure of the gradients' errors: over the number of samples, a panel for each entropy of the posterior, estimators of phi above those of theta."""

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.cells import Spec, label
from experiments.figures import STYLE, Runs, _bytes

CAPTION = (
    "Root of bias² + noise², as a share of the wanted gradient's size, for S samples; means over seeds. Above: q's logits; below: every log p(x, z). From left "
    "to right the exact posterior is less and less sure. At 1 the error is as large as the gradient; errors below 0.001 are drawn there."
)
FLOOR = 1e-3
LEVELS = ("low", "medium", "high")
MARKS = "osD^vP*Xhp<>d8H"
COLOURS = (*matplotlib.color_sequences["tab10"], "black", "gold", "navy", "limegreen", "crimson")  # one for each mark


def pictures(runs: Runs, spec: Spec) -> list[tuple[str, str, bytes]]:
    """What the report shows besides summary and curves: title, caption, file."""
    return [("Error of the gradient", CAPTION, errors(runs, spec))]


@matplotlib.rc_context(STYLE)
def errors(runs: Runs, spec: Spec) -> bytes:
    """PNG: two rows of three panels."""
    figure = Figure((9, 7.2), layout="constrained")
    panels = figure.subplots(2, len(LEVELS), sharex=True, sharey="row", squeeze=False)
    for below, kind in enumerate(("φ", "θ")):
        rows = [row for row in spec["rows"] if row in runs and label(spec, row).startswith(kind)]
        if len(rows) > len(MARKS):
            raise ValueError(f"the figure tells {len(MARKS)} estimators of {kind} apart, and the table has {len(rows)}: add marks and colours")
        for column, level in enumerate(LEVELS):
            _panel(panels[below, column], runs, spec, rows, column)
            if not below:
                panels[below, column].set_title(f"{level} entropy")
        panels[below, 0].set_ylabel(f"error of the gradient in {kind}")
        panels[below, -1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=7.5)
    for axes in panels[-1]:
        axes.set_xlabel("samples S")
    return _bytes(figure, "png")


def _panel(axes: Axes, runs: Runs, spec: Spec, rows: list[str], level: int) -> None:
    for row, mark, shade in zip(rows, MARKS, COLOURS, strict=False):
        every = list(runs[row].values())
        total = sum(run["errors"][level].square().sum(-1).sqrt() for run in every) / len(every)
        samples = every[0]["samples"].tolist()
        name = label(spec, row).split(": ", 1)[1]
        axes.plot(samples, total.clamp_min(FLOOR).numpy(), color=shade, marker=mark, markersize=4, linewidth=1.2, label=name)
    axes.set(xscale="log", yscale="log", xticks=samples, xticklabels=[str(s) for s in samples])
    axes.minorticks_off()
    axes.axhline(1, color="#999999", linewidth=0.8, zorder=0)
