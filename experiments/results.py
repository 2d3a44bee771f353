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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from latentcomp import __version__
from latentcomp.checkpoint import save_data, written

ELSEWHERE = "Move the folder away, or write elsewhere with outputs=FOLDER. Nothing in it was changed"
ABSENT = "absent"


class OtherVersion(SystemExit):
    """The folder holds results of another version."""


class OtherSettings(SystemExit):
    """The folder holds runs that were made with other settings."""


class Folder:
    """A results folder.

    Args:
        path: where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Checks that what lies there, if anything, came from this version.

        Raises:
            OtherVersion: it did not; nothing in it was touched.
        """
        existing = self.meta().get("version", __version__)
        if existing != __version__:
            raise OtherVersion(
                f"error: {self.path} holds results of latentcomp {existing}, this is {__version__}: two versions do not belong in one table. {ELSEWHERE}"
            )

    def describe(self, meta: dict[str, Any]) -> None:
        """Writes what the folder holds, and makes it where there is none."""
        write_json(self.path / "meta.json", {"version": __version__, "hardware": hardware()} | meta)

    def meta(self) -> dict[str, Any]:
        """What the folder was said to hold; nothing if it is new."""
        try:
            return json.loads((self.path / "meta.json").read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise OtherVersion(f"error: {self.path / 'meta.json'} is damaged: move the folder away, or write elsewhere with outputs=FOLDER") from None

    def records(self, row: str, seed: int, config: dict[str, Any]) -> list[dict[str, Any]] | None:
        """The records of a finished run, or None.

        Raises:
            OtherSettings: it is finished, but of another configuration; names what differs, and nothing was touched.
        """
        path = self.path / "runs" / f"{row}-{seed}.json"
        try:
            records = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        if not records or not path.with_suffix(".pt").exists():
            return None
        if other := differences(records[0]["config"], config):
            raise OtherSettings(f"error: {path} was made with other settings: {'; '.join(other)}. Two kinds do not belong in one table. {ELSEWHERE}")
        return records

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


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What was one thing and is another, by dotted name."""
    was, now = flat(old), flat(new)
    changed = [key for key in sorted(was.keys() | now.keys()) if was.get(key, ABSENT) != now.get(key, ABSENT)]
    return [f"{key} was {was.get(key, ABSENT)}, is {now.get(key, ABSENT)}" for key in changed]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names."""
    parts = ({f"{prefix}{key}": value} if not isinstance(value, Mapping) else flat(value, f"{prefix}{key}.") for key, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def hardware() -> str:
    """One line about the machine."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{device}; torch {torch.__version__}, Python {platform.python_version()}"


def write_json(path: Path, data: object) -> None:
    """Writes JSON whole or not at all; numbers that JSON does not know are refused, not written."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    with written(path) as file:
        file.write(text.encode())
