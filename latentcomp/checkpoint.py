"""States in one file: written whole or not at all, and read without executing anything.

For a state that stands alone, such as the best so far of a run; the checkpoints of a run, each with the one before it to fall back to, are
:class:`~latentcomp.checkpoints.Checkpoints`, which write by the same functions.
"""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

PLAIN = {int, float, str, bool, type(None), Tensor, nn.Parameter}


@runtime_checkable
class Stateful(Protocol):
    """Anything with a state: a model, a learner, an optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> object:
        """Restores it."""
        ...


def save(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Writes the states, so that a crash leaves the previous file as it was.

    Raises:
        TypeError: a state holds something that :func:`load` would not read again; names it.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    check_plain(states)
    save_data(path, states)


def save_data(path: Path, data: object) -> None:
    """Writes plain data (tensors, numbers, strings, lists, dictionaries) in the same way."""
    with written(path) as file:
        serialise(data, file)


@contextmanager
def written(path: Path) -> Iterator[BinaryIO]:
    """A file for the new content of ``path``: it lies beside it, and is flushed to the disk and moved there at the end, or taken away after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    flush(path.parent)


def serialise(data: object, file: Path | BinaryIO) -> None:
    """``torch.save``, whose word for a full disk is translated.

    Raises:
        OSError: it could not be written.
    """
    try:
        torch.save(data, file)
    except RuntimeError as error:
        if not re.search("inline_container|PytorchStreamWriter|iostream", str(error)):
            raise  # no word of torch's writer: a loader's dead worker, say, of which a signal tells wherever the process is
        raise OSError(str(error)) from error


def flush(path: Path) -> None:
    """To the disk itself; of a folder, the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_plain(value: Any, where: str = "") -> None:
    """Refuses what ``torch.load(weights_only=True)`` would not read again.

    Raises:
        TypeError: names it.
    """
    if isinstance(value, Mapping):
        for key, below in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(below, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            check_plain(below, f"{where}[{number}]")
    elif type(value) not in PLAIN:
        raise TypeError(f"{where} is of type {type(value).__name__}, which a checkpoint would not read again: keep tensors, numbers, strings, lists or dicts")


def load(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Restores the states that :func:`save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged (the checksums in it differ), or holds other parts than those asked for.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} differs")
        states = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}): it is damaged or of another kind. Take an older one, or train anew") from error
    if not isinstance(states, dict) or set(states) != set(parts):
        raise ValueError(f"{path} holds {sorted(states) if isinstance(states, dict) else type(states).__name__}, but {sorted(parts)} were asked for")
    for name, part in parts.items():
        part.load_state_dict(states[name])
