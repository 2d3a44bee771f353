"""``python -m benchmarks.import_time``: the time of ``import latentcomp`` as a ratio of that of ``import torch``.

Fresh processes, in turn (torch, latentcomp, torch, latentcomp, ...), after one warm-up of each; the ratio is that of the medians. At most 1.3 is wanted.
"""

import statistics
import subprocess
import sys
import time


def seconds(module: str) -> float:
    """The wall-clock time of a fresh process that imports the module."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main(repeats: int = 7) -> None:
    """Prints the two medians and their ratio."""
    times: dict[str, list[float]] = {"torch": [], "latentcomp": []}
    for repeat in range(repeats + 1):
        for module, values in times.items():
            elapsed = seconds(module)
            if repeat:
                values.append(elapsed)
    torch, ours = (statistics.median(values) for values in times.values())
    print(f"import torch {torch:.2f} s, import latentcomp {ours:.2f} s, ratio {ours / torch:.2f} (medians of {repeats})")


if __name__ == "__main__":
    main()
