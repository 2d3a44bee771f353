"""Signals that ask a run to end: it ends its step, saves, and exits with a code that says so.

SIGTERM comes from ``kill``, batch systems and torchrun, SIGINT from Ctrl-C, SIGUSR1 from SLURM some time before it takes the machine away
(``#SBATCH --signal=USR1@120``). A second SIGINT ends the run at once, as Ctrl-C always does.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from latentcomp import processes

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, the same command goes on from here
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


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
    """``with Signals() as signals:`` listens; ``signals.asked()`` says whether to end.

    Outside the main thread, where Python hands out no signals, it listens to none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        """Listens."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    @property
    def reason(self) -> str:
        """Which signal came."""
        return "another process was asked to end" if self.received is None else f"{self.received.name} came"

    def asked(self) -> bool:
        """Whether a signal came, to this process or to any other of the run: the same answer for all of them, so that all end after the same step."""
        return processes.any_of(self.received is not None)


@contextmanager
def interruptible(listens: bool = True) -> Iterator[None]:
    """What a run does before and after its training, when all that there is to save is saved: a signal ends it at once. Training inside it listens for itself.

    Args:
        listens: False where nothing is saved, so that signals do what they always did. It listens to none outside the main thread, either.

    Raises:
        Interrupted: a signal came.
    """
    if not listens or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise Interrupted(f"{signal.Signals(number).name} came outside training; all that is saved is kept: the same command goes on from there")
