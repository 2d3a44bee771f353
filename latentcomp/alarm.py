"""What one process of a run tells the others when it fails, so that none waits for it until the timeout of the process group.

An exchange waits for every process, and one that has failed never comes to it. So a failure is written to the store through which the processes found each
other, whoever started them (torchrun, Fabric, SLURM, a user's hands), and a thread of each process looks there twice a second. Who hears of a failure gives
up the exchange that it waits in: gloo's are waited for with one eye on the alarm, those of NCCL are aborted. Processes that all stop with an error of their
own, such as a loss that is not finite in the sum of all, have a moment to do so, and may use their group again.
"""

import atexit
import itertools
import threading
import time
from datetime import timedelta
from types import TracebackType

from torch import distributed as dist

LOOKS = 0.5  # seconds between two looks at the store
GRACE = 1.5  # seconds that a process which hears of another's failure has to stop by itself
LINGER = 5.0  # the longest that a failed process waits for the others to hear of it: the store may end with it

_watching: "_Thread | None" = None
_depth = 0
_periods = itertools.count()  # every process opens its outermost watches in the same order, so that each has a key of its own


class PeerFailed(RuntimeError):
    """Another process of the run stopped with an error of its own; this one stops with it instead of waiting for it for ever."""


class Watch:
    """``with Watch():``: an error inside it ends the exchanges of all other processes within a few seconds, which raise :class:`PeerFailed` with its text.

    ``fit`` and ``train`` stand in one; a loop of your own around ``fit`` may, too, so that what fails in its body is told as well. Watches may stand in each
    other. After a failure that did not happen to all processes alike their group is of no use any more: let them end.
    """

    def __enter__(self) -> "Watch":
        """Begins to look, where it is the outermost."""
        global _watching, _depth
        if _depth == 0 and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            _watching = _Thread(f"latentcomp/failure/{next(_periods)}")
        _depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _watching, _depth
        _depth -= 1
        if _watching is not None and error is not None and not isinstance(error, PeerFailed | GeneratorExit) and not getattr(error, "of_all", False):
            _watching.tell(error)
        if _depth == 0 and _watching is not None:
            _watching.end()
            _watching = None


class _Thread:
    """Looks, and keeps what it heard.

    Attributes:
        failure: what failed where, once it is known.
        over: set when there is nothing more to wait for.
    """

    def __init__(self, key: str) -> None:
        self.key, self.failure, self.over, self._told = key, "", threading.Event(), False
        self._store, self._known, self._ended = dist.distributed_c10d._get_default_store(), threading.Event(), threading.Event()
        self._own = self._store.clone()  # a store serves one caller at a time
        self._thread = threading.Thread(target=self._look, name="latentcomp-alarm", daemon=True)
        self._thread.start()
        atexit.register(self.end)  # no thread in the middle of a look when the interpreter goes

    def _look(self) -> None:
        while not self.failure:
            if self._ended.wait(LOOKS):
                return
            try:
                if self._own.check([self.key]):
                    self.failure = self._own.get(self.key).decode(errors="replace")
                    self._own.add(f"{self.key}/heard", 1)
            except RuntimeError:
                self.failure = "the process that keeps the store of this run, usually rank 0, has ended without a word: look at what it printed"
        self._known.set()
        if not self._ended.wait(GRACE):
            self.over.set()
            if dist.get_backend() != "gloo" and dist.group.WORLD is not None:
                dist.group.WORLD.abort()

    def tell(self, error: BaseException) -> None:
        """Writes the failure for the others, once, unless one of them has failed before, and waits until they have heard of it."""
        self.end()
        if self._told:
            return
        self._told = True
        try:
            if self._store.add(f"{self.key}/failures", 1) > 1:
                self._store.add(f"{self.key}/heard", int(not self.failure))
                return
            text = f"rank {dist.get_rank()} of {dist.get_world_size()} failed: {type(error).__name__}: {error}"
            self._store.set(self.key, text[:4000])
            latest = time.monotonic() + LINGER
            while self._store.add(f"{self.key}/heard", 0) < dist.get_world_size() - 1 and time.monotonic() < latest:
                time.sleep(LOOKS / 10)
        except RuntimeError:
            return  # the store has gone with the process that kept it, which the others hear as well

    def end(self) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()
        atexit.unregister(self.end)

    def heard(self, seconds: float) -> str:
        """The failure, if it is known by then."""
        self._known.wait(seconds)
        return self.failure


def check() -> None:
    """Raises what was heard.

    Raises:
        PeerFailed: another process has failed, and this one has had time to do so itself.
    """
    if _watching is not None and _watching.over.is_set():
        raise PeerFailed(_watching.failure)


def finish(work: dist.Work) -> None:
    """Waits for an exchange, or for the news that it will never end.

    Raises:
        PeerFailed: another process has failed; the text says which and why, as far as that is known.
    """
    try:
        while not _finished(work):
            check()
    except PeerFailed:
        raise
    except RuntimeError as error:
        told = _watching.heard(3 * LOOKS) if _watching is not None else ""
        silent = "another rank has ended without a word (was it killed?), or did not come within the timeout of the process group: look at what it printed"
        raise PeerFailed(told or silent) from error


def _finished(work: dist.Work) -> bool:
    """Whether it is done, after at most a moment; on a GPU what follows waits for it, and not the caller."""
    if dist.get_backend() != "gloo":
        work.wait()
        return True
    try:
        work.wait(timedelta(seconds=LOOKS))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # raises its own error, if there is one: it may have been done in this very moment
    return True
