"""Signals that ask a run to end: it ends its step, saves, and exits with a code that says so.

SIGTERM comes from ``kill``, batch systems and torchrun, SIGINT from Ctrl-C, SIGUSR1 or SIGUSR2 from SLURM some time before it takes the machine away
(``#SBATCH --signal=USR1@120``). A second SIGINT ends the run at once, as Ctrl-C always does.

Under submitit (``launcher=slurm``) it is submitit that ends a job, since it alone can have it queued again: when a run has saved itself, the signal is handed
on to the handler that submitit had for it. That one has the job queued again and exits, or, for the SIGTERM that SLURM sends with other signals, does nothing,
and the run goes on.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from latentcomp import processes

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on from here
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
LINGER = 30.0  # seconds that a process waits for the end of a job which another process has queued again: its own end might be taken for the job's


class Interrupted(SystemExit):
    """The run was asked to end and has saved; the exit code is 75 (EX_TEMPFAIL): the same command goes on from there.

    Attributes:
        of_all: every process ends with it after the same step, so that none needs to be told (``alarm``).
    """

    of_all = True

    def __init__(self, message: str) -> None:
        super().__init__(INTERRUPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[str]]:
        """From one process to another."""
        return type(self), (self.message,)


class Signals:
    """``with Signals() as signals:`` listens; ``signals.asked()`` says whether to save, and ``signals.end(...)``, afterwards, ends the run.

    Outside the main thread, where Python hands out no signals, it listens to none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._asked = 0  # the signal that counts, of all that the processes have received

    def __enter__(self) -> "Signals":
        """Listens."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        if self.received not in (signal.SIGUSR1, signal.SIGUSR2):  # which say more than the SIGTERM that comes with them
            self.received = signal.Signals(number)

    @property
    def reason(self) -> str:
        """Which signal came."""
        return "another process was asked to end" if self.received is None else f"{self.received.name} came"

    def asked(self) -> bool:
        """Whether a signal came, to this process or to any other of the run: the same answer for all of them, so that all end after the same step."""
        numbers = [number for (number,) in processes.stacked([int(self.received or 0)])]
        self._asked = next((number for number in (signal.SIGUSR2, signal.SIGUSR1, *numbers) if number in numbers and number), 0)
        return any(numbers)

    def end(self, where: str) -> None:
        """Ends a run that was asked to and has saved itself. Returns only under submitit, where the run is to go on.

        Args:
            where: what of the run is done, such as "after 3 of 9 batches".

        Raises:
            Interrupted: the same command goes on.
            SystemExit: submitit's own, when it has had the job queued again.
        """
        handler: Any = next((before for number, before in self._before.items() if number == self._asked), None)
        if of_submitit(handler):
            _handed_on(handler, self._asked)
            if self._asked == signal.SIGTERM:
                self.received = None
                return
        raise Interrupted(f"{self.reason} {where}; saved: the same command goes on from there")


def of_submitit(handler: Any) -> bool:
    """Whether a signal's handler is submitit's, which has a job queued again."""
    return type(getattr(handler, "__self__", None)).__module__.partition(".")[0] == "submitit"


def _handed_on(handler: Callable[[int, FrameType | None], Any], number: int) -> None:
    try:
        handler(number, None)
    except SystemExit as ended:
        ended.of_all = True  # type: ignore[attr-defined]  # the job ends with all of its processes, which need not be told
        raise
    if number != signal.SIGTERM:  # the first of the job's processes has it queued again, which ends this one, too
        time.sleep(LINGER)


@contextmanager
def interruptible(listens: bool = True) -> Iterator[None]:
    """What a run does before and after its training, when all that there is to save is saved: a signal ends it at once. Training inside it listens for itself.

    Args:
        listens: False where nothing is saved, so that signals do what they always did. It listens to none outside the main thread, either, and to none that
            submitit listens to.

    Raises:
        Interrupted: a signal came.
    """
    if not listens or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in SIGNALS if not of_submitit(signal.getsignal(number))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    interrupted = Interrupted(f"{signal.Signals(number).name} came outside training; all that is saved is kept: the same command goes on from there")
    interrupted.of_all = False  # the others may be in the middle of anything
    raise interrupted
