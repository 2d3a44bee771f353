"""States on disk: written whole or not at all, and read without executing anything."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch


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
    """Writes the states beside ``path``, flushes them to disk and then moves them there: a crash leaves the previous file as it was."""
    save_data(path, {name: part.state_dict() for name, part in parts.items()})


def save_data(path: Path, data: object) -> None:
    """Writes plain data (tensors, numbers, strings, lists, dictionaries) in the same way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        torch.save(data, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def load(path: Path, parts: Mapping[str, Stateful]) -> None:
    """Restores the states that :func:`save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or holds other parts than those asked for.
    """
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({error}): it is damaged or of another kind. Take an older one, or train anew") from error
    if not isinstance(states, dict) or set(states) != set(parts):
        raise ValueError(f"{path} holds {sorted(states) if isinstance(states, dict) else type(states).__name__}, but {sorted(parts)} were asked for")
    for name, part in parts.items():
        part.load_state_dict(states[name])
