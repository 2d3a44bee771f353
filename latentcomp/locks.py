"""One process at a time in a folder.

Two processes that run the same command write to the same files and destroy each other's. So whoever writes to a folder holds a lock on a file in it
(``flock``). The kernel frees it when the process ends, however it ends, so that no lock is ever left over; that the file stays means nothing. What stands in
it, pid and host, is for people to read.

A lock belongs to a process: asked for again it gives the one it has, so that a run may be opened twice, one after the other. A forked child has none of its
parent's. It would inherit them, and a loader's worker would hold those of a run that was killed for as long as it outlived it; so it closes its copies.
"""

import errno
import os
import socket
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX
    fcntl = None  # type: ignore[assignment]

NAME = "lock"
UNKNOWN = "which has not said who it is"
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

Identity = tuple[int, int]  # of a file: its device, and its number there


class Locked(RuntimeError):
    """Another process is at work in the folder; the message names the folder and the process."""


class LockWarning(UserWarning):
    """The file system has no locks, so that nothing keeps two processes apart."""


class Lock:
    """A folder that this process holds, for as long as anything refers to this object.

    Args:
        descriptor: of the locked file.
    """

    def __init__(self, descriptor: int) -> None:
        self._close = weakref.finalize(self, os.close, descriptor)

    def close_copy(self) -> None:
        """Closes a forked child's copy of the descriptor, which leaves the lock with the parent."""
        if found := self._close.detach():
            os.close(found[2][0])


_held: weakref.WeakValueDictionary[Identity, Lock] = weakref.WeakValueDictionary()


def hold(folder: Path, wait: bool = False) -> Lock:
    """The lock of a folder. Keep what this returns: the folder is free again when nothing refers to it.

    Args:
        folder: must be there.
        wait: for a process that holds it, instead of an error.

    Returns:
        The lock; the same one for a process that has it already.

    Raises:
        Locked: another process has it; names the folder, its pid and its host.
        OSError: no file can be written in the folder.
    """
    path = folder / NAME
    while True:
        with suppress(FileNotFoundError):
            if (own := _held.get(_identity(os.stat(path)))) is not None:
                return own
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o666)  # a file that is open for writing would keep its disk from being made read-only
        try:
            _take(descriptor, path, wait)
            identity, current = _identity(os.fstat(descriptor)), _identity(os.stat(path)) if path.exists() else None
        except BaseException:
            os.close(descriptor)
            raise
        if identity == current:
            break
        os.close(descriptor)  # its last holder has deleted the folder, and another is there now, or none
    _sign(path)
    lock = _held[identity] = Lock(descriptor)
    return lock


@contextmanager
def holding(folder: Path, wait: bool = False) -> Iterator[None]:
    """The lock of a folder, as :func:`hold`, for the time of a block."""
    lock = hold(folder, wait)
    try:
        yield
    finally:
        del lock


def _take(descriptor: int, path: Path, wait: bool) -> None:
    if fcntl is None:
        return _warn(path.parent, "this system has no flock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno == errno.EBADF and _made_writable(descriptor, path):
            return _take(descriptor, path, wait)
        if error.errno not in TAKEN:
            return _warn(path.parent, error.strerror or str(error))
        raise Locked(
            f"{path.parent} is in use by another process ({_holder(path)}): two runs in one folder would destroy each other's files. Wait until it has ended, "
            "end it, or give another folder"
        ) from None


def _made_writable(descriptor: int, path: Path) -> bool:
    """Opens the file anew as the same descriptor, for NFS locks only what is open for writing; False where that was so already."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_RDWR:
        return False
    writable = os.open(path, os.O_RDWR)
    os.dup2(writable, descriptor, inheritable=False)
    os.close(writable)
    return True


def _warn(folder: Path, why: str) -> None:
    message = f"{folder} cannot be locked ({why}): nothing keeps a second process out of it. Begin no other run there before this one has ended"
    warnings.warn(message, LockWarning, stacklevel=4)


def _sign(path: Path) -> None:
    """Says who holds it; on a full disk it stays unsaid."""
    with suppress(OSError):
        path.write_text(f"pid {os.getpid()} on {socket.gethostname()}")


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace")[:200] or UNKNOWN
    return UNKNOWN


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _forget() -> None:
    for lock in list(_held.values()):
        lock.close_copy()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
