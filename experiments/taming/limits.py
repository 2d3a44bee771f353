"""How many updates a row makes: as many as the budget says, or as many as fit into the time in which another prior makes those.

Equal time is measured, not promised: on the machine of the run, in its process and just before it, both priors make a few updates by turns, and the median
ratio of their times, which no passing disturbance moves far, turns the other's updates into this row's. So a schedule of the rates knows its end, and a run
that goes on keeps its length. The table's column of seconds shows how well it was met.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from experiments.results import write_json
from experiments.taming.priors import Build
from latentcomp import processes

Update = Callable[[], object]
"""Makes one update of a prior that is thrown away, and waits for its end."""
Trial = Callable[[Build], Update]
"""A prior on the codes of this run, its optimiser and batches, ready to be timed."""


class Limit(Protocol):
    """Anything that says how long a row trains."""

    def __call__(self, updates: int, own: Build, trial: Trial) -> int:
        """Updates of the row, from those of the budget."""
        ...


class Updates(NamedTuple):
    """As many as the budget says."""

    def __call__(self, updates: int, own: Build, trial: Trial) -> int:
        """The same number."""
        return updates


class SameTime(NamedTuple):
    """As many as take the time of the budget's updates of another prior.

    Attributes:
        rival: the other prior.
        rounds: how often both are timed.
        each: updates of either in a round.
    """

    rival: Build
    rounds: int = 7
    each: int = 3

    def __call__(self, updates: int, own: Build, trial: Trial) -> int:
        """The number that fits, at least one."""
        return max(1, round(updates * ratio(trial(self.rival), trial(own), self.rounds, self.each)))


def ratio(a: Update, b: Update, rounds: int, each: int) -> float:
    """How many times as long an update of ``a`` takes as one of ``b``: the median over rounds, both timed in each, after one that warms them up."""
    found = []
    for _ in range(rounds + 1):
        seconds = [_timed(update, each) for update in (a, b)]
        found.append(seconds[0] / seconds[1])
    return statistics.median(found[1:])


def _timed(update: Update, times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        update()
    return time.perf_counter() - start


def remembered(path: Path | None, measured: Callable[[], int]) -> int:
    """What was measured once, also by a run that was stopped and goes on; measured anew where there is no place to keep it.

    Of several processes the first one's clock counts, so that all make the same number of updates.
    """
    known = int(json.loads(path.read_text())) if path is not None and path.exists() else 0
    found = _of_the_first(known) or _of_the_first(measured())
    if path is not None and not known and processes.rank() == 0:
        write_json(path, found)
    return found


def _of_the_first(number: int) -> int:
    return processes.stacked([number])[0][0]
