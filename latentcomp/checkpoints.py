"""The checkpoints of a run: a folder of folders, each whole or not there, each of which says itself whether it is undamaged.

    folder/step-000000200/weights.safetensors   the tensors of the modules, for anyone who reads safetensors
                          state.pt              everything else, plain data that ``torch.load(weights_only=True)`` reads
                          manifest.json         format, step, score, what the run is, and a SHA-256 of each file and of the manifest itself

A checkpoint is written beside its place, flushed to disk and then renamed, which is one step for the file system; an old one is renamed away before it is
deleted. So a crash at any moment leaves only whole checkpoints under their names. What a disk does afterwards, the checksums show: a damaged checkpoint is
refused by name, and the run falls back to the one before. What is refused is never deleted: once the run saves again it lies aside, as damaged-step-...,
since a read may fail once and not again.
"""

import hashlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentcomp import locks, processes
from latentcomp.checkpoint import Stateful, check_plain, flush, serialise

FORMAT = 1
WEIGHTS, STATE, MANIFEST = "weights.safetensors", "state.pt", "manifest.json"


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written; the message names it and says what is wrong."""


class OtherFormat(ValueError):
    """A checkpoint is whole, and was written by another version of this library."""


class CheckpointWarning(UserWarning):
    """A checkpoint was damaged and an older one is used, or one could not be written."""


class Found(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        path: its folder.
        step: of the run.
        score: what ``save`` was told, the smaller the better; None where nothing was.
        about: what ``save`` was told about the run.
        states: the state of each part.
    """

    path: Path
    step: int
    score: float | None
    about: dict[str, Any]
    states: dict[str, dict[str, Any]]


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: where they are; made if it is not there.
        keep: how many of the latest to keep, at least two, so that a damaged one has one before it; the one of the best score is kept beside them.
        about: what the run is, as JSON: a checkpoint of a run that is something else is refused.

    As long as there is such an object, its first process holds the folder's lock: a second process is refused there. One process may open it several times.

    Raises:
        OSError: nothing can be written there, which is better known before the run than after it.
        Locked: another process is at work there; names it (``latentcomp.locks``).
    """

    def __init__(self, folder: Path | str, keep: int = 2, about: Mapping[str, Any] | None = None) -> None:
        if keep < 2:
            raise ValueError(f"keep at least two checkpoints, so that a damaged one has another before it; got keep={keep}")
        self.folder, self.keep, self.about = Path(folder), keep, json.loads(json.dumps(dict(about or {})))
        self._damaged: set[Path] = set()
        self._lock: locks.Lock | None = None
        with processes.Together():
            if processes.rank() == 0:
                self._open()

    def _open(self) -> None:
        """Takes the folder, tries to write there, and clears away what a crash has left unfinished."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locks.hold(self.folder)
            probe = self.folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            message = f"no checkpoint can be written to {self.folder} ({error.strerror or error}): give another folder, or make this one writable"
            raise type(error)(error.errno, message) from error
        for left in self.folder.glob(".*.part"):
            shutil.rmtree(left, ignore_errors=True)

    def paths(self) -> list[Path]:
        """The checkpoints under their names, the latest first."""
        return sorted((path for path in self.folder.glob("step-*") if path.is_dir()), reverse=True)

    def save(self, step: int, parts: Mapping[str, Stateful], score: float | None = None) -> bool:
        """Writes a checkpoint (the first process does, for all of them) and deletes those that are no longer kept.

        A write that fails leaves the others as they are and warns: the run goes on, and the next save tries again.

        Args:
            step: of the run.
            parts: what to write, by name.
            score: the smaller the better; the best is kept.

        Returns:
            Whether it was written, the same for every process.

        Raises:
            TypeError: a state holds something that ``weights_only=True`` would not read again; names it.
        """
        with processes.Together() as said:
            said.number = int(self._written(step, parts, score))
        return bool(said.numbers[0])

    def _written(self, step: int, parts: Mapping[str, Stateful], score: float | None) -> bool:
        place, unfinished = self.folder / f"step-{step:09d}", self.folder / f".step-{step:09d}.part"
        try:
            whole = _states(parts)
            if processes.rank():
                return True
            tensors, states = _divided(whole, {name for name, part in parts.items() if isinstance(part, nn.Module)})
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            _write(unfinished, tensors, states, {"format": FORMAT, "step": step, "score": score, "about": self.about})
            self._discard(place)  # there only if a run that fell back comes by again
            unfinished.rename(place)
            flush(self.folder)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            message = f"{place} could not be written ({error.strerror or error}); the checkpoints before it are whole. The run goes on and tries again"
            warnings.warn(message, CheckpointWarning, stacklevel=3)
            return False
        self._prune(place)
        return True

    def _prune(self, written: Path) -> None:
        """Deletes the abandoned future of a run that fell back, and what is older than the latest without being the best; what is damaged goes aside."""
        for path in self.paths():
            if path > written or path in self._damaged:
                self._discard(path)
        best = self.best()
        for path in self.paths()[self.keep :]:
            if path != best:
                self._discard(path)

    def _discard(self, path: Path) -> None:
        """Renames it away before deleting it, so that no half of it is ever seen; where it is damaged it stays under that name."""
        if not path.exists():
            return
        if path in self._damaged:
            shutil.rmtree(_aside(path), ignore_errors=True)
            path.rename(_aside(path))
            self._damaged.discard(path)
        else:
            gone = path.with_name(f".{path.name}.gone.part")
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def restore(self, parts: Mapping[str, Stateful]) -> Found | None:
        """Gives the parts the state of the latest undamaged checkpoint, and says on the way which were damaged; None where there is no checkpoint.

        Raises:
            DamagedCheckpoint: there are checkpoints, and all are damaged.
            OtherFormat: the latest was written by another version.
            ValueError: the checkpoint is of another run, of another precision, holds other parts, or is not the one that the other processes find.
        """
        with processes.Together() as said:
            found = self.latest()
            if found is not None and found.about != self.about:
                difference = _difference(found.about, self.about)
                raise ValueError(f"{found.path} is of another run: {difference}. Give another folder, or the settings it was made with")
            said.number = 0 if found is None else 1 + found.step
        if len(set(said.numbers)) > 1:
            finds = ", ".join(f"process {rank} {f'that of step {number - 1}' if number else 'none'}" for rank, number in enumerate(said.numbers))
            raise ValueError(f"the processes find different checkpoints in {self.folder}: {finds}. Give a folder that all machines share, or empty them all")
        if found is not None:
            give(found, parts)
        return found

    def latest(self) -> Found | None:
        """The latest undamaged checkpoint."""
        paths, damaged = self.paths(), []
        for path in paths:
            try:
                return read(path)
            except DamagedCheckpoint as error:
                damaged.append(str(error))
                self._damaged.add(path)
                warnings.warn(
                    f"{error}. The one before it is used, if there is one; at the next save this one is kept as {_aside(path).name}",
                    CheckpointWarning,
                    stacklevel=3,
                )
        if damaged:
            raise DamagedCheckpoint(f"all checkpoints in {self.folder} are damaged: {'; '.join(damaged)}. Delete them to begin anew")
        return None

    def best(self) -> Path | None:
        """The checkpoint of the best score."""
        scores = {path: score for path in self.paths() if path not in self._damaged and (score := _score(path)) is not None}
        return min(scores, key=lambda path: (scores[path], path)) if scores else None


def read(path: Path) -> Found:
    """A checkpoint, checked before it is believed; nothing in it is executed.

    Raises:
        DamagedCheckpoint: says what is wrong.
        OtherFormat: another version wrote it.
    """
    from safetensors.torch import load_file

    body = _manifest(path)
    for name, expected in body["files"].items():
        try:
            actual = _digest(path / name)
        except OSError as error:
            raise DamagedCheckpoint(f"{path} is damaged: {name} cannot be read ({error.strerror or error})") from error
        if actual != expected:
            raise DamagedCheckpoint(f"{path} is damaged: {name} is not what was written (its checksum differs; it was truncated or changed)")
    try:
        tensors = load_file(path / WEIGHTS)
        states = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedCheckpoint(f"{path} cannot be read without executing code, or not at all ({type(error).__name__}), and is refused") from error
    for name, tensor in tensors.items():
        part, _, key = name.partition("/")
        states[part][key] = tensor
    return Found(path, body["step"], body["score"], body["about"], states)


def give(found: Found, parts: Mapping[str, Stateful]) -> None:
    """Gives the parts their states.

    Raises:
        ValueError: the checkpoint holds other parts, or a tensor of a module in another floating-point type; nothing was given then.
    """
    if set(found.states) != set(parts):
        raise ValueError(f"{found.path} holds {sorted(found.states)}, but {sorted(parts)} were asked for")
    for name, part in parts.items():
        if isinstance(part, nn.Module):
            _check_precision(f"{found.path} holds {name}", found.states[name], part.state_dict())
    for name, part in parts.items():
        part.load_state_dict(found.states[name])


def _check_precision(where: str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """``load_state_dict`` would round them, or widen what was rounded before, without a word: the run would not be the one that was saved."""
    for key, value in own.items():
        other = saved.get(key)
        if isinstance(value, Tensor) and isinstance(other, Tensor) and other.is_floating_point() and other.dtype != value.dtype:
            raise ValueError(
                f"{where}.{key} as {other.dtype}, and here it is {value.dtype}: build the run in the precision that was saved, or begin anew in another folder"
            )


def _states(parts: Mapping[str, Stateful]) -> dict[str, dict[str, Any]]:
    """Asked for by every process, and of every part even where one fails, since a state may be put together from those of all processes."""
    states: dict[str, dict[str, Any]] = {}
    failures: list[OSError] = []
    for name, part in parts.items():
        try:
            states[name] = part.state_dict()
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return states


def _divided(whole: Mapping[str, dict[str, Any]], modules: set[str]) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors of modules, by ``part/key``, and everything else."""
    tensors: dict[str, Tensor] = {}
    states: dict[str, dict[str, Any]] = {name: {} for name in whole}
    for name, state in whole.items():
        for key, value in state.items():
            if name in modules and isinstance(value, Tensor):
                tensors[f"{name}/{key}"] = value.detach().contiguous().clone()  # shared storage would be refused
            else:
                states[name][key] = value
    check_plain(states)
    return tensors, states


def _write(folder: Path, tensors: dict[str, Tensor], states: dict[str, dict[str, Any]], body: dict[str, Any]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, folder / WEIGHTS)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # what it makes of a full disk
    serialise(states, folder / STATE)
    body |= {"files": {name: _digest(folder / name) for name in (WEIGHTS, STATE)}}
    (folder / MANIFEST).write_text(json.dumps({"body": body, "sha256": _checksum(body)}, indent=1))
    for path in (*(folder / name for name in (WEIGHTS, STATE, MANIFEST)), folder):
        flush(path)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        body, checksum = manifest["body"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{path} is damaged: its {MANIFEST} cannot be read ({type(error).__name__})") from error
    if checksum != _checksum(body):
        raise DamagedCheckpoint(f"{path} is damaged: its {MANIFEST} is not what was written")
    if body["format"] != FORMAT:
        raise OtherFormat(f"{path} has format {body['format']}, and this version reads {FORMAT}: read it with the version that wrote it")
    return body


def _score(path: Path) -> float | None:
    """None, too, where it is not finite, since nothing is smaller than nan."""
    try:
        score = _manifest(path)["score"]
    except (DamagedCheckpoint, OtherFormat):
        return None
    return score if score is not None and math.isfinite(score) else None


def _aside(path: Path) -> Path:
    """Where a damaged checkpoint goes."""
    return path.with_name(f"damaged-{path.name}")


def _checksum(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    different = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}" for key in different[:4])
