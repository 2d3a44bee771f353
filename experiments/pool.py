"""Runs side by side: single-threaded processes, one for each core, that report how far they are.

Two threads that share a busy core can be several times slower than one, so each process keeps to one.

A signal that asks the caller to end (SIGTERM, SIGINT, SIGUSR1, SIGUSR2) is passed on to the processes, whose runs save themselves and end; no other begins.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from queue import Empty
from types import FrameType
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from latentcomp.signals import INTERRUPTED, SIGNALS, Interrupted, interruptible

METHOD = "spawn"  # how processes begin: those of a fork would share the threads of torch with this one

_steps: Any = None
_asked: signal.Signals | None = None  # of this process, by a signal that came when no run was there to hear it
_idle = threading.Event()


def _initialise(queue: Any) -> None:
    global _steps
    _steps = queue
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, _remember)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _idle.set()
    threading.Thread(target=_ends_with_its_parent, daemon=True).start()


def _ends_with_its_parent() -> None:
    """Nobody else would end this process when the caller was killed: its run saves itself first, as after a signal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        _idle.wait()
        os._exit(INTERRUPTED)


def _remember(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = signal.Signals(number)


def _called(function: Callable[..., Any], *job: Any) -> Any:
    """A job, in its process: a signal ends it, as it ends itself where it listens, and otherwise at once."""
    _idle.clear()
    try:
        with interruptible():
            if _asked is not None:
                raise Interrupted(f"{_asked.name} came before it began: the same command begins it")
            return function(*job)
    finally:
        _idle.set()


def report(steps: int) -> None:
    """Says from within a run that so many more updates are done."""
    if _steps is not None:
        with suppress(OSError, EOFError):  # the process that counts them was ended first, by a signal to all
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

    A job that raises yields its exception in place of a result; the others go on. After a signal no other job begins; those that are running hear of it, are
    waited for, and yield what they end with. Where the caller stops for another reason, they are waited for, too.

    Args:
        function: importable by name.
        jobs: its arguments.
        names: what the bar calls each job.
        steps: how many steps each job reports in all.
        done: how many jobs more were done before, for the bar.

    Raises:
        Interrupted: a signal came, and not all jobs have come to their end; raised when those that were running have.
    """
    context = multiprocessing.get_context(METHOD)
    with context.Manager() as manager, _listening() as asked:
        queue, others = manager.Queue(), set(multiprocessing.active_children())
        workers = max(1, min(len(jobs), os.cpu_count() or 1))
        with ProcessPoolExecutor(workers, context, _initialise, (queue,)) as pool, _bar() as bar:
            task = bar.add_task(f"{done} of {done + len(jobs)} runs", total=sum(steps))
            left, running, total, told, stopped = deque(enumerate(jobs)), dict[Future[Any], int](), done + len(jobs), set[BaseProcess](), 0
            while running or (left and not asked):
                while left and len(running) < workers and not asked:  # none waits in the pool, which would begin it even after a signal
                    number, job = left.popleft()
                    running[_submitted(pool, function, job)] = number
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                if asked:
                    told |= _told(set(multiprocessing.active_children()) - others - told)
                bar.advance(task, _drained(queue))
                for future in finished:
                    number, done = running.pop(future), done + 1
                    bar.update(task, description=f"{done} of {total} runs, last: {names[number]}")
                    stopped += isinstance(future.exception(), Interrupted)
                    yield number, future.exception() or future.result()
    if asked and (left or stopped):
        message = f"{asked[0].name} came: {stopped} runs were stopped and {len(left)} did not begin"
        raise Interrupted(f"{message}; what was saved is kept, and the same command goes on from there")


@contextmanager
def _listening() -> Iterator[list[signal.Signals]]:
    """The signals that have come; a second SIGINT raises, as Ctrl-C always does. Outside the main thread Python hands out none."""
    came: list[signal.Signals] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.signal(number, receive) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _told(processes: set[BaseProcess]) -> set[BaseProcess]:
    """Those processes, after a SIGTERM to each; Ctrl-C has reached them too, and a SIGTERM after it changes nothing."""
    for process in processes:
        process.terminate()
    return processes


def _submitted(pool: Executor, function: Callable[..., Any], job: tuple[Any, ...]) -> Future[Any]:
    """A pool that has lost a process takes no more jobs; they end with its error. A process begins deaf, until it knows what to do with a signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        return pool.submit(_called, function, *job)
    except BrokenExecutor as error:
        future: Future[Any] = Future()
        future.set_exception(error)
        return future
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    return Progress(*columns)


def _drained(queue: Any) -> int:
    total = 0
    while True:
        try:
            total += queue.get_nowait()
        except (Empty, OSError, EOFError):  # empty, or ended by a signal to all
            return total
