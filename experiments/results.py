"""A results folder: what a table's runs leave on disk, in plain files.

    meta.json      version, budget, command, seeds, hardware, the table's words
    runs/          one pair of files for each finished run: ROW-SEED.json (records), ROW-SEED.pt (curves and pictures)
    results.json   all records: one for each row, seed and metric, no aggregates

A run's files appear whole or not at all, so an interrupted table goes on where it was.
"""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from latentcomp import __version__
from latentcomp.checkpoint import save_data, written


class OtherVersion(SystemExit):
    """The folder holds results of another version."""


class Folder:
    """A results folder.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, meta: dict[str, Any]) -> None:
        """Makes the folder, or checks that what lies there came from this version.

        Raises:
            OtherVersion: it did not; nothing in it was touched.
        """
        existing = self._meta()
        if existing is not None and existing.get("version") != __version__:
            raise OtherVersion(
                f"error: {self.path} holds results of latentcomp {existing.get('version')}, this is {__version__}: two versions do not belong in one "
                f"table. Move the folder away, or write elsewhere with outputs=FOLDER. Nothing in it was changed"
            )
        write_json(self.path / "meta.json", {"version": __version__, "hardware": hardware()} | meta)

    def _meta(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / "meta.json").read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise OtherVersion(f"error: {self.path / 'meta.json'} is damaged: move the folder away, or write elsewhere with outputs=FOLDER") from None

    def records(self, row: str, seed: int, config: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The records of a finished run of this very configuration, or None."""
        path = self.path / "runs" / f"{row}-{seed}.json"
        try:
            records = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if not path.with_suffix(".pt").exists():
            return None
        return records if records and fingerprint(records[0]["config"]) == fingerprint(config) else None

    def add(self, row: str, seed: int, records: list[dict[str, Any]], pictures: dict[str, Any]) -> None:
        """Stores a finished run; the records come last, since they say that it is finished."""
        save_data(self.path / "runs" / f"{row}-{seed}.pt", pictures)
        write_json(self.path / "runs" / f"{row}-{seed}.json", records)

    def collect(self, records: list[dict[str, Any]]) -> None:
        """Writes results.json."""
        write_json(self.path / "results.json", records)


def fingerprint(config: dict[str, Any]) -> str:
    """A hash of a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def hardware() -> str:
    """One line about the machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{device}; torch {torch.__version__}, Python {platform.python_version()}"


def write_json(path: Path, data: object) -> None:
    """Writes JSON whole or not at all; numbers that JSON does not know are refused, not written."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    with written(path) as file:
        file.write(text.encode())
