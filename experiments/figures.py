"""Figures of a table: who is best, training curves, reconstructions, samples, code usage, posteriors; each a function that returns a picture file's bytes.

A row has one colour everywhere, from Tol's muted palette, which readers with any common colour blindness can tell apart. No figure touches pyplot.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from experiments.cells import Records, Spec, Values, against, best, label, partner, reference
from latentcomp.statistics import Interval

Run = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Run]]  # by row and seed

PALETTE = ("#332288", "#999933", "#117733", "#44AA99", "#88CCEE", "#882255", "#DDCC77", "#CC6677", "#AA4499")
EXACT, OTHERS = "#777777", "#cccccc"
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "figure.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#555555", "axes.linewidth": 0.7, "legend.frameon": False,
    "svg.hashsalt": "latentcomp", "savefig.dpi": 192,
}  # fmt: skip


def colour(spec: Spec, row: str) -> str:
    """The row's colour."""
    return PALETTE[spec["rows"].index(row) % len(PALETTE)]


@matplotlib.rc_context(STYLE)
def summary(records: Records, spec: Spec) -> bytes:
    """SVG: the headline metric of each row, and its paired difference to the reference: dots for seeds and means, lines for intervals."""
    values, metric, heading = Values(records), spec["headline"], spec["headings"][spec["headline"]]
    means = {row: mean for row in spec["rows"] if (mean := values.mean(row, metric))}
    rows = list(means) if "groups" in spec else sorted(means, key=lambda row: means[row].mean, reverse=heading["lower_is_better"] is not True)
    top, other = best(values, spec, metric), against(spec) if any(partner(spec, row) in means for row in means) else None
    figure = Figure((9, 0.9 + 0.32 * len(rows)), layout="constrained")
    left, *right = figure.subplots(1, 1 + (other is not None), sharey=True, squeeze=False)[0]
    for y, row in enumerate(rows):
        seeds = values.finite(row, metric).values()
        left.plot(list(seeds), [y + 0.24] * len(seeds), "o", color=colour(spec, row), alpha=0.5, markersize=3, markeredgewidth=0)
        _dot(left, means[row], y, colour(spec, row), row in top)
        if right and (difference := values.difference(row, partner(spec, row), metric)):
            _dot(right[0], difference, y, colour(spec, row), True)
    unit = f" ({heading['unit']})" if heading["unit"] else ""
    left.set(yticks=range(len(rows)), yticklabels=[label(spec, row) for row in rows], xlabel=heading["label"] + unit, ylim=(max(len(rows), 1) - 0.5, -0.5))
    for axes in right:
        axes.axvline(0, color=EXACT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set_xlabel(f"Difference to {other}{unit}")
    for axes in (left, *right):
        axes.grid(axis="y", color="#eeeeee", zorder=-1)
        axes.tick_params(axis="y", length=0)
    return _bytes(figure, "svg")


def _dot(axes: Axes, mean: Interval, y: float, colour: str, filled: bool) -> None:
    if math.isfinite(mean.low):
        axes.plot((mean.low, mean.high), (y, y), color=colour, linewidth=1.8, solid_capstyle="round")
    axes.plot(mean.mean, y, "o", color=colour, markersize=6.5, markerfacecolor=colour if filled else "white", markeredgewidth=1.5)


@matplotlib.rc_context(STYLE)
def curves(runs: Runs, spec: Spec) -> bytes:
    """SVG: the validation NLL, or what a table names as its ``curve``, by step, a panel for each row: its seeds (thin), their mean (thick), the states kept
    (dots), and the means of the rows that it is compared with (grey).
    """
    number = spec.get("curve", "val_nll")
    seeds = {row: [np.array([(look["step"], look[number]) for look in run["curve"]]).T for run in by_seed.values()] for row, by_seed in runs.items()}
    means = {row: mean_of(lines) for row, lines in seeds.items()}
    figure, panels = _panels(runs, 1.55, "Training step", spec.get("watched", "Validation NLL (nats)"), alike="groups" not in spec)
    for row, axes in panels:
        together = [other for other in seeds if reference(spec, other) == reference(spec, row)]
        best = [nll[np.isfinite(nll)].min() for other in together for _, nll in seeds[other]]
        spread = max(best) - min(best) or 1.0
        for other in together:
            axes.plot(*means[other], color=OTHERS, linewidth=0.7, zorder=1)
        for (steps, nll), run in zip(seeds[row], runs[row].values(), strict=True):
            axes.plot(steps, nll, color=colour(spec, row), linewidth=0.6, alpha=0.5)
            axes.plot(run["best_step"], nll[steps == run["best_step"]], "o", color=colour(spec, row), markersize=3.5, markeredgewidth=0)
        axes.plot(*means[row], color=colour(spec, row), linewidth=1.8)
        axes.set(title=label(spec, row), ylim=(min(best) - 0.1 * spread, max(best) + 0.8 * spread))  # early, worse values may leave the frame
    return _bytes(figure, "svg")


def mean_of(lines: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of curves ``(2, looks)``, as far as the shortest goes: seeds that train for a time make unequal numbers of updates."""
    looks = min(line.shape[1] for line in lines)
    return np.mean([line[:, :looks] for line in lines], 0)


@matplotlib.rc_context(STYLE)
def reconstructions(runs: Runs, spec: Spec) -> bytes:
    """PNG: test images over each row's reconstructions, of its first seed."""
    shown: list[tuple[str, Tensor]] = []
    for row, run in first(runs).items():
        if not any(torch.equal(run["images"], images) for _, images in shown):
            shown.append(("Test images", run["images"]))
        shown.append((label(spec, row), run["reconstructions"]))
    return strips(shown)


@matplotlib.rc_context(STYLE)
def samples(runs: Runs, spec: Spec) -> bytes:
    """PNG: each row's samples from its prior, of its first seed."""
    return strips([(label(spec, row), run["samples"]) for row, run in first(runs).items()])


@matplotlib.rc_context(STYLE)
def usage(runs: Runs, spec: Spec) -> bytes:
    """SVG: how often each code is used, most used first, sites in shades (where they are few enough to tell); of each row's first seed."""
    figure, panels = _panels(runs, 1.4, "Code, most used first", "Share of use")
    for row, axes in panels:
        counts = first(runs)[row]["usage"].double()
        share = (counts / counts.sum()).numpy()
        share = share[:, np.argsort(-share.sum(0), kind="stable")]
        share, codes = share if len(share) <= 8 else share.sum(0, keepdims=True), np.arange(1, share.shape[1] + 1)
        for site, (part, below) in enumerate(zip(share, np.cumsum(share, 0) - share, strict=True)):
            axes.bar(codes, part, 0.8 if len(codes) <= 64 else 1, below, color=colour(spec, row), alpha=1 - 0.7 * site / len(share), linewidth=0)
        axes.axhline(1 / len(codes), color=EXACT, linewidth=0.8, linestyle=(0, (4, 3)))
        pooled = share.sum(0)[share.sum(0) > 0]
        axes.set_title(f"{label(spec, row)}: perplexity {math.exp(-(pooled * np.log(pooled)).sum()):.1f} of {len(codes)}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _bytes(figure, "svg")


@matplotlib.rc_context(STYLE)
def posteriors(runs: Runs, spec: Spec) -> bytes | None:
    """SVG: a learner's posterior (colour) beside the exact one of its own model (grey), on its ten most probable codes; None where none was enumerated."""
    shown = {row: run["posterior"] for row, run in first(runs).items() if "posterior" in run}
    if not shown:
        return None
    images, codes = next(iter(shown.values()))["images"], max(part["p"].shape[-1] for part in shown.values())
    figure = Figure((9, 1.1 + 0.9 * len(shown)), layout="constrained")
    top, *lines = figure.subplots(1 + len(shown), len(images), squeeze=False)
    for axes, image in zip(top, images, strict=True):
        _show(axes, _picture(image))
    for line, (row, part) in zip(lines, shown.items(), strict=True):
        for axes, p, q in zip(line, part["p"], part["q"], strict=True):
            for offset, values, shade in ((-0.22, p, EXACT), (0.22, q, colour(spec, row))):
                at = np.array([*range(1, len(p) + 1), codes + 2]) + offset  # after a gap: all other codes together
                axes.bar(at, [*values.tolist(), max(0.0, 1 - float(values.sum()))], 0.44, color=shade, linewidth=0)
            axes.set_yscale("function", functions=(np.sqrt, np.square))
            axes.set(xticks=(), yticks=(), ylim=(0, 1))
        line[0].set_yticks((0, 0.1, 0.5, 1), ("0", ".1", ".5", "1"))
        _name(line[0], label(spec, row))
    for axes in lines[-1]:
        axes.set_xticks((1, codes, codes + 2), ("1", str(codes), "rest"))
    names = ["exact posterior of the row's own model", "the learner's posterior, in the row's colour"]
    figure.legend([Patch(color=EXACT), Patch(color=PALETTE[0])], names, loc="outside lower center", ncols=2)
    return _bytes(figure, "svg")


def first(runs: Runs) -> dict[str, Run]:
    """Each row's run of its first seed."""
    return {row: by_seed[min(by_seed)] for row, by_seed in runs.items()}


def _panels(runs: Runs, height: float, x: str, y: str, alike: bool = True) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a panel for each row, three abreast, all of them with the same axes or each with its own."""
    lines = math.ceil(len(runs) / 3)
    figure = Figure((9, 0.4 + height * lines), layout="constrained")
    figure.supxlabel(x)
    figure.supylabel(y)
    panels = figure.subplots(lines, 3, sharex=alike, sharey=alike, squeeze=False).ravel()
    for axes in panels[len(runs) :]:
        axes.set_axis_off()
    return figure, list(zip(runs, panels, strict=False))


@matplotlib.rc_context(STYLE)
def strips(rows: list[tuple[str, Tensor]]) -> bytes:
    """PNG: labelled strips of images, one below the other."""
    figure = Figure((1.3 + 0.5 * max(len(images) for _, images in rows), 0.52 * len(rows)), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        _show(axes, np.concatenate([np.pad(_picture(image), ((0, 0), (0, 1), (0, 0)), constant_values=1) for image in images], 1))
        _name(axes, name)
    return _bytes(figure, "png")


def _name(axes: Axes, name: str) -> None:
    axes.set_ylabel(textwrap.fill(name, 14, break_on_hyphens=False), rotation=0, ha="right", va="center")


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_visible(False)


def _picture(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] as (H, W, 3); other channels than one or three are averaged to grey."""
    colours = image.float().clamp(0, 1) if len(image) == 3 else image.float().mean(0, keepdim=True).clamp(0, 1).expand(3, -1, -1)
    return colours.permute(1, 2, 0).numpy()


def _bytes(figure: Figure, form: str) -> bytes:
    file = BytesIO()
    figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None, bbox_inches="tight" if form == "png" else None)
    return file.getvalue()
