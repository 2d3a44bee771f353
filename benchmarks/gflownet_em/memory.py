"""Peak memory: the maximum resident size of a fresh process, less its size after the imports.

``python -m benchmarks.gflownet_em.memory SIDE WORK`` is that process. Linux keeps both numbers in /proc/self/status; ``ru_maxrss`` would also count what
the parent was before it started this process.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.gflownet_em.choice import SIDES
from benchmarks.gflownet_em.sides import Setting, images

STEPS = 3
MIB = 1024


def peak(side: str, work: str, setting: Setting, samples: int, threads: int) -> float:
    """MiB that a fresh process adds to its size after the imports.

    Args:
        side: its name.
        work: ``steps``, some rounds of E-step, sleep step and M-step, or ``log_px``, the estimate of one image.
        setting: the sizes.
        samples: M of the estimate.
        threads: of torch.
    """
    arguments = json.dumps({"setting": list(setting), "samples": samples, "threads": threads})
    command = [sys.executable, "-m", "benchmarks.gflownet_em.memory", side, work, arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def resident(field: str) -> float:
    """MiB of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise OSError("the benchmark of memory reads /proc/self/status, which only Linux has: leave it out with --without peak_memory")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) / MIB


def main(side: str, work: str, arguments: str) -> None:
    """Does the work and prints the peak."""
    read = json.loads(arguments)
    setting = Setting(*read["setting"])
    torch.set_num_threads(read["threads"])
    SIDES[side].imports(setting)
    before = resident("VmRSS")
    x = images(setting)
    made = SIDES[side](setting, x)
    if work == "log_px":
        made.log_px(x[:1], read["samples"])
    else:
        for _ in range(STEPS):
            made.e_step(), made.sleep_step(), made.m_step()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
