"""Interleaved timing: every side once, then every side again (A B C A B C ...), so that whatever else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Times = dict[str, list[float]]


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int, warm_up: int = 1, device: str = "cpu") -> Times:
    """Wall-clock seconds of each task, ``repeats`` times each, after ``warm_up`` rounds that do not count."""
    times: Times = {name: [] for name in tasks}
    for round_ in range(warm_up + repeats):
        for name, task in tasks.items():
            elapsed = _seconds(task, device)
            if round_ >= warm_up:
                times[name].append(elapsed)
    return times


def _seconds(task: Callable[[], object], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    task()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()


def ratio(times: Times, slow: str, fast: str) -> float:
    """The ratio of the medians."""
    return statistics.median(times[slow]) / statistics.median(times[fast])


def mean_ratio(times: Times, slow: str, fast: str) -> float:
    """The ratio of the means, for tasks that are not alike."""
    return statistics.mean(times[slow]) / statistics.mean(times[fast])
