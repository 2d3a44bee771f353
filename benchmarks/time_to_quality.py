"""``python -m benchmarks.time_to_quality --reference PATH --data PATH``: how long each way of GFlowNet-EM takes to the same likelihood.

Three contestants at C = 32 and K = 8 on thresholded MNIST: the published code (a user's own checkout), the ``faithful`` preset, which takes the same steps, and
the ``modern`` one. They train in turns within one process, whoever has used the least time next, so that whatever else the machine does hits all alike. A clock
runs while a contestant trains, and stands still while it is judged: by the same importance-weighted estimate with its own posterior, on the same test images
under the uniform prior; the first looks follow each other quickly, so that who is fast is not charged for waiting. The schedule of ``modern`` spans the updates
of its table row; the other two go on until the time is over.
"""

import argparse
import itertools
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.gflownet_em import ours, reference, sides, weights
from benchmarks.race_figure import figure
from experiments import execute, settings
from experiments.results import hardware, write_json
from latentcomp.batch import Batch
from latentcomp.data.split import Split
from latentcomp.evaluate import importance
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import coin
from latentcomp.posteriors.posterior import Posterior
from latentcomp.train import fit

ALTERNATE, SLEEP = 400, 0.3  # the published alternation, and the probability of its sleep step
SOONEST, LATER = 2.0, 1.25  # the first looks: after so many seconds, then after so many times the seconds of the last


class Contestant(ABC):
    """Someone who trains, and can be judged.

    Attributes:
        seconds: of training so far.
        curve: ``[seconds, steps, nll]`` at each look.
        finished: whether there is nothing left to do.
    """

    def __init__(self) -> None:
        self.seconds, self.steps, self.finished = 0.0, 0, False
        self.curve: list[tuple[float, int, float]] = []

    def train(self, steps: int) -> None:
        """So many steps, on the clock."""
        start = time.perf_counter()
        for _ in range(steps):
            if not self.step():
                self.finished = True
                break
            self.steps += 1
        self.seconds += time.perf_counter() - start

    def judge(self, x: torch.Tensor, samples: int) -> None:
        """A point of the curve, off the clock."""
        model, posterior = self.judged()
        self.curve.append((self.seconds, self.steps, -float(importance.log_px(model, posterior, x, samples=samples).log_px.mean())))

    @abstractmethod
    def step(self) -> bool:
        """One step; False when there is none left."""

    @abstractmethod
    def judged(self) -> tuple[LatentVariableModel, Posterior]:
        """The model and the posterior as they are now."""


class Preset(Contestant):
    """A row of the MNIST table.

    Args:
        row: its name.
        overrides: of its configuration.
    """

    def __init__(self, row: str, overrides: list[str]) -> None:
        super().__init__()
        self.built = execute.build(settings.composed([f"experiment=mnist/{row}", *overrides]))
        self.average = WeightAverage(self.built.descent.average, self.built.model, self.built.learner)
        batches = self.built.data.batches(self.built.budget.size, self.built.budget.updates, 0)
        self._fit = fit(self.built.model, self.built.learner, batches, self.built.descent.optimizer)

    def step(self) -> bool:
        """One batch of the loop."""
        if next(self._fit, None) is None:
            return False
        if self.built.descent.scheduler is not None:
            self.built.descent.scheduler.step()
        self.average.update()
        return True

    def judge(self, x: torch.Tensor, samples: int) -> None:
        """By its averaged weights, where it averages."""
        with self.average.applied():
            super().judge(x, samples)

    def judged(self) -> tuple[LatentVariableModel, Posterior]:
        """Its own."""
        return self.built.model, self.built.learner.posterior


class Checkout(Contestant):
    """The published code, its steps in the published order; judged through our modules, which take over its weights.

    Args:
        path: of the checkout.
        data: the images.
        setting: the sizes.
    """

    def __init__(self, path: str, data: Split, setting: sides.Setting) -> None:
        super().__init__()
        self._batches: Iterator[Batch] = iter(data.batches(setting.batch, sys.maxsize, 0))
        first = next(self._batches).x
        self.side, self.twin = reference.Published(setting._replace(checkout=path), first), ours.Ours(setting, first)
        weights.copy(self.twin, self.side)

    def step(self) -> bool:
        """M-steps first, one short of a phase, as published."""
        self.side.x = next(self._batches).x
        if (self.steps + 1) % (2 * ALTERNATE) < ALTERNATE:
            self.side.m_step()
            return True
        self.side.e_step()
        if coin(SLEEP, 0, self.steps):
            self.side.sleep_step()
        return True

    def judged(self) -> tuple[LatentVariableModel, Posterior]:
        """Our modules with its weights."""
        weights.adopt(self.twin, self.side)
        return self.twin.model, self.twin.posterior


def race(contestants: dict[str, Contestant], x: torch.Tensor, seconds: float, every: float, samples: int) -> None:
    """Trains in turns until everyone is finished or out of time, with a look at each ``every`` seconds of a contestant's own clock, more often at first."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns) as bar:
        tasks = {name: bar.add_task(name, total=seconds) for name in contestants}
        while running := {name: who for name, who in contestants.items() if not who.finished and who.seconds < seconds}:
            name, who = min(running.items(), key=lambda pair: pair[1].seconds)
            who.train(5)
            if who.seconds >= next_look(who.curve, every) or who.finished:
                who.judge(x, samples)
            shown = "" if not who.curve else f", {who.curve[-1][2]:.1f} nats"
            bar.update(tasks[name], completed=who.seconds, description=f"{name}: {who.steps} steps{shown}")


def next_look(curve: list[tuple[float, int, float]], every: float) -> float:
    """When a contestant is judged next, in seconds of its clock: at once, soon, a quarter later each time, and at last each ``every`` seconds."""
    if not curve:
        return 0.0
    last = curve[-1][0]
    return min(max(SOONEST, LATER * last), last + every)


def reached(curve: list[tuple[float, int, float]], target: float) -> float | None:
    """The seconds at the first look at or below a likelihood; None if there was none."""
    return next((seconds for seconds, _, nll in curve if nll <= target), None)


def report(contestants: dict[str, Contestant]) -> dict[str, Any]:
    """For some likelihoods that the published code reached: how long everyone took."""
    published = contestants["published code"].curve
    best, first = min(nll for *_, nll in published), published[0][2]
    targets = [best + (first - best) * share for share in (0.5, 0.25, 0.1, 0.0)]
    times = [{"nll": target} | {name: reached(who.curve, target) for name, who in contestants.items()} for target in targets]
    return {"targets": times, "curves": {name: who.curve for name, who in contestants.items()}}


def command(arguments: list[str]) -> str:
    """The command that was given, without the folders of this machine."""
    private = {"--reference": "PATH", "--data": "FOLDER", "--json": "FILE", "--figure": "FILE"}
    shown = [private.get(before, word) for before, word in itertools.pairwise(["", *arguments])]
    return " ".join(["python -m benchmarks.time_to_quality", *shown])


def main() -> None:
    """The race, its numbers and its figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", required=True, help="a checkout of GFNOrg/GFlowNet-EM")
    parser.add_argument("--data", required=True, help="the folder of MNIST's IDX files")
    parser.add_argument("--seconds", type=float, default=600, help="of training for each contestant")
    parser.add_argument("--every", type=float, default=20, help="seconds between two looks")
    parser.add_argument("--images", type=int, default=200, help="test images of a look")
    parser.add_argument("--samples", type=int, default=100, help="M of a look")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--figure", type=Path, help="where to draw the curves (SVG)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    common = ["budget=mnist/cpu", "seed=0", f"data.root={options.data}", f"data.test={options.images}"]
    modern = Preset("modern_gflownet_em", common)
    contestants: dict[str, Contestant] = {
        "published code": Checkout(options.reference, modern.built.data, sides.Setting(channels=32, codes=8)),
        "faithful": Preset("faithful_greedy", [*common, "batches=1000000"]),
        "modern": modern,
    }
    race(contestants, modern.built.data.test, options.seconds, options.every, options.samples)
    results = (
        report(contestants)
        | {
            "hardware": hardware(),
            "threads": options.threads,
            "load": os.getloadavg()[2],  # of the last quarter of an hour: how much ran, this included
            "command": command(sys.argv[1:]),
        }
    )
    for row in results["targets"]:
        times = {name: "not reached" if row[name] is None else f"{row[name]:.0f} s" for name in contestants}
        print(f"{row['nll']:.1f} nats: " + ", ".join(itertools.starmap("{}: {}".format, times.items())))
    if options.json:
        write_json(options.json, results)
    if options.figure:
        options.figure.write_bytes(figure(results))


if __name__ == "__main__":
    main()
