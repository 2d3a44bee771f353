"""Reads a published checkpoint without executing anything in it, and without the packages it was written with.

A pickle names the classes and functions it wants (its globals) and calls them while it is read. Checkpoints of those years hold objects of Lightning,
OmegaConf and argparse beside the weights. Here the file is first walked through with nothing behind its globals, which shows what it names. Globals of
those packages then become inert placeholders, and torch's own restricted unpickler reads the file: it knows the globals that tensors need, and refuses
any other even where it is never called.
"""

import _compat_pickle
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

BinaryFile = IO[bytes] | BytesIO
PACKAGES = ("pytorch_lightning", "lightning", "omegaconf", "argparse")
# what OmegaConf's nodes name in their own state: types, of which placeholders do as well
NODE_TYPES = {"typing.Any", "collections.defaultdict", *(f"builtins.{t}" for t in ("dict", "list", "tuple", "str", "int", "float", "bool"))}


class Inert:
    """Stands for any class or function: takes every argument and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> "Inert":
        return self

    def __setstate__(self, state: object) -> None: ...


class Seen(Inert):
    """An inert object of the first walk, which remembers as what its class was filled."""

    kind: type[Inert] = Inert

    def __setitem__(self, key: object, value: object) -> None:
        type(self).kind = InertMapping

    def append(self, item: object) -> None:
        """Items came: it is a list."""
        type(self).kind = InertList

    def extend(self, items: object) -> None:
        """Items came: it is a list."""
        type(self).kind = InertList

    def add(self, item: object) -> None:
        """Items came, to a set: nothing to remember."""


class InertMapping(Inert):
    """Stands for a class of dictionaries; torch's unpickler fills none but its own kinds, so it makes one of those."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """An empty dictionary."""
        return OrderedDict()


class InertList(Inert, list):
    """Stands for a class of lists."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        """An empty list."""
        return list.__new__(cls)


class Walk(pickle.Unpickler):
    """Goes through a pickle with an inert class for every global, and keeps their names."""

    def __init__(self, file: BinaryFile) -> None:
        super().__init__(file)
        self.seen: dict[str, type[Seen]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """An inert class of its own for each name; those of Python 2, in which old protocols are written, become today's."""
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name))
        return self.seen.setdefault(f"{module}.{name}", type(name, (Seen,), {}))

    def persistent_load(self, pid: object) -> Any:
        """Storages stay where they are."""
        return Seen()


def globals_of(file: BinaryFile) -> dict[str, type[Seen]]:
    """The globals that a checkpoint names, by their full names; as many as can be read before damage."""
    found: dict[str, type[Seen]] = {}
    for part in _pickles(file):
        walk = Walk(part)
        try:
            walk.load()
        except Exception:  # damage, or the bytes behind the pickles: torch's own reader will judge
            return found | walk.seen
        finally:
            found |= walk.seen
    return found


def _pickles(file: BinaryFile) -> Iterator[BinaryFile]:
    """The pickles of a checkpoint: one in an archive, five in a row in the old format."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        yield from (file for _ in range(5))
        return
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                yield BytesIO(archive.read(name))


def placeholders(seen: dict[str, type[Seen]]) -> dict[str, type[Inert]]:
    """An inert class for each global of the known packages."""
    ours = {name: made for name, made in seen.items() if name.split(".")[0] in PACKAGES or name in NODE_TYPES}
    return {name: type(made.__name__, (made.kind,), {}) for name, made in ours.items()}


@contextmanager
def _opened(checkpoint: str | Path | BinaryFile) -> Iterator[tuple[str, BinaryFile]]:
    if isinstance(checkpoint, str | Path):
        with Path(checkpoint).open("rb") as file:
            yield str(checkpoint), file
    else:
        yield str(getattr(checkpoint, "name", "the checkpoint")), checkpoint


def read_state(checkpoint: str | Path | BinaryFile) -> dict[str, Tensor]:
    """The state_dict of a checkpoint, on the CPU.

    Args:
        checkpoint: a path, or a file opened for reading bytes; an archive of today's torch or a file of the old format. The state stands under
            ``state_dict``, or is all there is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file names a global that neither tensors nor Lightning, OmegaConf and argparse need, or is damaged, or holds no state, or
            one whose keys are no names.
    """
    with _opened(checkpoint) as (name, file):
        seen = globals_of(file)
        inert = placeholders(seen)
        file.seek(0)
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals([(made, name) for name, made in inert.items()]):
                warnings.simplefilter("ignore")  # torch's remark on other protocols comes before its refusal
                content = _load(checkpoint, file)
        except Exception as error:
            raise ValueError(_refusal(name, seen.keys() - inert.keys(), error)) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{name} holds no state_dict: a dictionary of tensors, or one under the key 'state_dict', was expected")
    strangers = [key for key in state if not isinstance(key, str)]
    if strangers:
        raise ValueError(
            f"a checkpoint names weights by strings, and in {name} its state_dict has the key {strangers[0]!r}: save that of a module, model.state_dict()"
        )
    return dict(state)


def _load(checkpoint: str | Path | BinaryFile, file: BinaryFile) -> Any:
    """An archive on disk is mapped into memory: of the gigabytes of an optimiser's state beside the weights nothing is read."""
    archive = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if archive and isinstance(checkpoint, str | Path):
        return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(file, map_location="cpu", weights_only=True)


def _refusal(name: str, globals_: set[str], error: Exception) -> str:
    # torch has no public name for what its unpickler knows; no prefix will do: torch.hub.load is a download, and torch.os.system a shell
    foreign = sorted(globals_ - _get_allowed_globals().keys())
    if foreign:
        return (
            f"{name} was refused, and nothing in it was executed: it names {', '.join(foreign)}, which is no part of a state of weights. "
            "If you trust its origin, load it where it was made and save its state_dict alone"
        )
    return f"{name} cannot be read as a checkpoint ({error}): it is damaged, or of another kind"
