"""The measurements, one after the other."""

import argparse
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gflownet_em import memory, train
from benchmarks.gflownet_em.captured import Captured
from benchmarks.gflownet_em.choice import SIDES
from benchmarks.gflownet_em.ours import Ours
from benchmarks.gflownet_em.sides import Setting, Side, images
from benchmarks.gflownet_em.timing import Times, interleaved, mean_ratio, ratio
from benchmarks.gflownet_em.weights import copy
from latentcomp._version import __version__

STEPS = ("e_step", "sleep_step", "m_step")
RATIOS = (*STEPS, "log_px_untrained", "log_px_trained", "peak_memory")


def measured(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """All ratios asked for, the seconds behind them, and how they were measured."""
    against = "reference" if setting.checkout else "textbook"
    sides = _sides(setting, ("ours", "textbook", against) if setting.checkout else ("ours", against))
    wanted = [name for name in RATIOS if name not in options.without]
    seconds: dict[str, Times] = {}
    found: dict[str, Any] = {}
    for name in (name for name in STEPS if name in wanted):
        seconds[name] = interleaved({side: getattr(made, name) for side, made in sides.items()}, options.repeats, device=setting.device)
        _say(name, seconds[name])
    if setting.device != "cpu" and "e_step" in wanted:
        found["gpu"] = _captured(sides, options, against)
    sides = _sides(setting, tuple(sides))  # the weights before any step: nothing repeats
    if "log_px_untrained" in wanted:
        seconds["log_px_untrained"], found["untrained"] = _log_px(sides, images(setting)[:1], options)
    if "log_px_trained" in wanted:
        x, found["trained"] = train.restore(options.trained, _ours(sides), options.images)
        _share(sides)
        seconds["log_px_trained"], estimates = _log_px_of_each({side: sides[side] for side in ("ours", against)}, x, options)
        found["trained"] |= estimates
    ratios = {name: (mean_ratio if name == "log_px_trained" else ratio)(times, against, "ours") for name, times in seconds.items()}
    if "peak_memory" in wanted:
        found["memory_mib"] = _memory(setting, options, against)
        ratios["peak_memory"] = max(of["ours"] / of[against] for of in found["memory_mib"].values())
    if setting.checkout:
        found["textbook_over_reference"] = {name: ratio(times, "textbook", "reference") for name, times in seconds.items() if "textbook" in times}
    return ratios | {"against": against} | found | {"seconds": seconds, "measured": _how(setting, options)}


def _sides(setting: Setting, names: tuple[str, ...]) -> dict[str, Side]:
    """New sides, all with the weights of ours."""
    torch.manual_seed(0)
    x = images(setting)
    sides = {name: SIDES[name](setting, x) for name in names}
    _share(sides)
    return sides


def _ours(sides: dict[str, Side]) -> Ours:
    made = sides["ours"]
    if not isinstance(made, Ours):
        raise TypeError(f"the side named ours is {type(made).__name__}")
    return made


def _share(sides: dict[str, Side]) -> None:
    for side in sides.values():
        copy(_ours(sides), side)


def _log_px(sides: dict[str, Side], x: torch.Tensor, options: argparse.Namespace) -> tuple[Times, dict[str, Any]]:
    """Seconds of the estimate of one image, and the estimates themselves."""
    estimates: dict[str, float] = {}

    def task(name: str) -> None:
        estimates[name] = float(sides[name].log_px(x, options.samples).mean())

    _ours(sides).log_px(x, 100)  # wakes the threads
    times = interleaved({name: lambda name=name: task(name) for name in sides}, options.log_px_repeats, 0, options.device)
    _say(f"log p(x) by {options.samples} samples", times)
    return times, {"log_px": estimates}


def _log_px_of_each(sides: dict[str, Side], x: torch.Tensor, options: argparse.Namespace) -> tuple[Times, dict[str, Any]]:
    """Seconds of the estimate of each image, for how long ours takes depends on how many codes are distinct; and the estimates."""
    times: Times = {name: [] for name in sides}
    found: dict[str, list[float]] = {name: [] for name in sides}
    _ours(sides).log_px(x[:1], 100)  # wakes the threads
    for image in x.split(1):
        for name, seconds in interleaved({name: _estimate(side, image, options.samples, found[name]) for name, side in sides.items()}, 1, 0).items():
            times[name] += seconds
    _say(f"log p(x) of {len(x)} images by {options.samples} samples", times)
    return times, {"log_px": found}


def _estimate(side: Side, image: torch.Tensor, samples: int, found: list[float]) -> Callable[[], None]:
    """A task that notes what it found; reading the number waits for the device."""
    return lambda: found.append(float(side.log_px(image, samples)))


def _captured(sides: dict[str, Side], options: argparse.Namespace, against: str) -> dict[str, float]:
    """Steps a second: eager, as a captured graph, and the other side's."""
    captured = Captured(_ours(sides))
    tasks = {"eager": sides["ours"].e_step, "captured": captured.step, against: sides[against].e_step}
    times = interleaved(tasks, 10 * options.repeats, 3, options.device)
    return {f"e_steps_per_second_{name}": 1 / ratio({name: seconds, "one": [1.0]}, name, "one") for name, seconds in times.items()}


def _memory(setting: Setting, options: argparse.Namespace, against: str) -> dict[str, dict[str, float]]:
    works = ("steps",) if {"log_px_untrained", "log_px_trained"} <= set(options.without) else ("steps", "log_px")
    return {work: {side: memory.peak(side, work, setting, options.samples, options.threads) for side in ("ours", against)} for work in works}


def _say(name: str, times: Times) -> None:
    print(f"{name}: " + ", ".join(f"{side} {', '.join(f'{s:.2f}' for s in seconds)} s" for side, seconds in times.items()), flush=True)


def _how(setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, sizes."""
    cpuinfo = Path("/proc/cpuinfo")
    names = {line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")} if cpuinfo.exists() else set()
    hardware = ", ".join(sorted(names)) or platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "command": "python -m benchmarks.gflownet_em " + shlex.join(sys.argv[1:]),
        "hardware": f"{hardware}, {capability}" if setting.device == "cpu" else torch.cuda.get_device_name(setting.device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "latentcomp": __version__},
        "sizes": {"channels": setting.channels, "codes": setting.codes, "batch": setting.batch, "samples": options.samples},
        "threads": options.threads,
        "repeats": {"steps": options.repeats, "log_px": options.log_px_repeats},
        "how": "all sides in turn in one process (A B C A B C ...), the first round of steps left out; ratios are of medians, of log_px_trained of the sums "
        "over the images, each estimated once; peak memory of fresh processes (VmHWM less VmRSS after all imports, those of the checkout too), the largest "
        "ratio of three rounds of steps and of one image's log p(x)",
    }
