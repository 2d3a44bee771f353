"""Runs side by side: single-threaded processes, one for each core, that report how far they are.

Two threads that share a busy core can be several times slower than one, so each process keeps to one.
"""

import math
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from queue import Empty
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_steps: Any = None


def _initialise(queue: Any) -> None:
    global _steps
    _steps = queue
    torch.set_num_threads(1)


def report(steps: int) -> None:
    """Says from within a run that so many more updates are done."""
    if _steps is not None:
        _steps.put(steps)


class Reporter:
    """Reports how far a run is, at most twice a second, since a run may make thousands of steps in that time; and at its end.

    Args:
        steps: how many there are.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self._reported, self._last = steps, 0, -math.inf

    def __call__(self, step: int) -> None:
        """The run has made so many."""
        if time.monotonic() - self._last > 0.5 or step >= self.steps:
            report(step - self._reported)
            self._reported, self._last = step, time.monotonic()


def side_by_side(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], names: Sequence[str], steps: Sequence[int], done: int = 0
) -> Iterator[tuple[int, Any]]:
    """Calls ``function(*job)`` for each job in processes, under a progress bar with the time left, and yields (number of the job, result) as they end.

    A job that raises yields its exception in place of a result; the others go on. Where the caller stops, by Ctrl-C or otherwise, no other job begins, and
    those that are running are waited for: Ctrl-C has reached them, too, and they save themselves.

    Args:
        function: importable by name.
        jobs: its arguments.
        names: what the bar calls each job.
        steps: how many steps each job reports in all.
        done: how many jobs more were done before, for the bar.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        workers = max(1, min(len(jobs), os.cpu_count() or 1))
        with ProcessPoolExecutor(workers, context, _initialise, (queue,)) as pool, _bar() as bar:
            task = bar.add_task(f"{done} of {done + len(jobs)} runs", total=sum(steps))
            left, running, total = deque(enumerate(jobs)), dict[Future[Any], int](), done + len(jobs)
            while left or running:
                while left and len(running) < workers:  # none waits in the pool, which would begin it even after Ctrl-C
                    number, job = left.popleft()
                    running[_submitted(pool, function, job)] = number
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                bar.advance(task, _drained(queue))
                for future in finished:
                    number, done = running.pop(future), done + 1
                    bar.update(task, description=f"{done} of {total} runs, last: {names[number]}")
                    yield number, future.exception() or future.result()


def _submitted(pool: Executor, function: Callable[..., Any], job: tuple[Any, ...]) -> Future[Any]:
    """A pool that has lost a process takes no more jobs; they end with its error."""
    try:
        return pool.submit(function, *job)
    except BrokenExecutor as error:
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(*columns)


def _drained(queue: Any) -> int:
    total = 0
    while True:
        try:
            total += queue.get_nowait()
        except Empty:
            return total
