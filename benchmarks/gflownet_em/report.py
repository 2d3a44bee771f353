"""The ratios as text."""

import statistics
from typing import Any

from tabulate import tabulate


def table(results: dict[str, Any]) -> str:
    """Medians, ratios, and what the trained model is."""
    against = results["against"]
    rows = []
    for name, times in results["seconds"].items():
        medians = {side: statistics.median(seconds) for side, seconds in times.items()}
        textbook = f"{medians['textbook'] / medians[against]:.2f}" if "textbook" in medians else ""
        rows.append([name, f"{medians['ours']:.3f} s", f"{medians[against]:.3f} s", f"{results[name]:.1f}", textbook])
    for work, of in results.get("memory_mib", {}).items():
        rows.append([f"peak memory, {work}", f"{of['ours']:.0f} MiB", f"{of[against]:.0f} MiB", f"{of['ours'] / of[against]:.2f} of it", ""])
    lines = [tabulate(rows, ["", "ours", against, "times as fast", f"textbook over {against}"], tablefmt="github")]
    for name in ("untrained", "trained", "gpu"):
        if name in results:
            lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in results[name].items()))
    return "\n".join(lines)
