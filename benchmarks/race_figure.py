"""The figure of ``benchmarks.time_to_quality``: negative log-likelihood against seconds of training, one line for each contestant."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from experiments.figures import PALETTE, STYLE

COLOURS = {"published code": "#777777", "faithful": PALETTE[7], "modern": PALETTE[0]}


@matplotlib.rc_context(STYLE)
def figure(results: Mapping[str, Any]) -> bytes:
    """SVG: the curves on a logarithmic axis of time; where each first reached the published code's best value, a dot."""
    drawing = Figure((6.4, 3.4), layout="constrained")
    axes = drawing.subplots()
    target = results["targets"][-1]
    for name, curve in results["curves"].items():
        seconds, _, nll = zip(*curve, strict=True)
        axes.plot(seconds, nll, color=COLOURS[name], linewidth=1.8, label=f"{name}: {curve[-1][1]:,} steps")
        if target[name] is not None:
            axes.plot(target[name], target["nll"], "o", color=COLOURS[name], markersize=6)
            axes.annotate(f"{target[name]:.0f} s", (target[name], target["nll"]), (0, 8), textcoords="offset points", ha="center", color=COLOURS[name])
    axes.axhline(target["nll"], color="#bbbbbb", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set(xscale="log", xlabel="Seconds of training", ylabel="Test NLL, uniform prior (nats)")
    axes.legend()
    buffer = BytesIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
