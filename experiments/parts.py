"""What a folder's files may name: nothing that the project's own configuration files (``experiments/conf``) do not name.

``_target_`` in a configuration is a call, and a results folder may come from anyone. So a configuration that a run left in its folder is read as plain data,
and all of it is looked through before any of it is made: what it would call must be called somewhere under ``experiments/conf`` as well. The same holds for
the function that draws a table's pictures.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from experiments.settings import CONF

FINDERS = "hydra."  # targets of its own that give what their ``path`` names


class RefusedName(SystemExit):
    """A file names what the project's own configuration files do not; the message says which, and what to do."""


@functools.cache
def named(key: str) -> frozenset[str]:
    """What the project's own configuration files name under a key: ``_target_``, ``path`` or ``pictures``."""
    pattern = re.compile(rf"(?<!\w){re.escape(key)}: *[\"']?([\w.]+)")
    return frozenset(name for file in CONF.rglob("*.yaml") for name in pattern.findall(file.read_text()) if "." in name)


def stored(file: Path, *parts: str) -> DictConfig:
    """These parts, or all, of a configuration that a run left in its folder, as plain data that is safe to be made.

    Raises:
        RefusedName: it would call what the project's own configuration files do not.
        SystemExit: the file is missing, damaged, or lacks a part.
    """
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {file} cannot be read ({error}): it is missing or damaged. Make the folder anew with the command it came from") from None
    missing = [part for part in parts if part not in config] if isinstance(config, dict) else parts or ["all"]
    if missing:
        raise SystemExit(f"error: {file} lacks {', '.join(missing)}: it is damaged, or of another version. Make the folder anew")
    own = {part: config[part] for part in parts or config}
    check(own, file)
    return OmegaConf.create(own)


def check(value: Any, file: Path, where: str = "") -> None:
    """Looks through a configuration, as plain data, before any of it is made.

    Raises:
        RefusedName: it would call what the project's own configuration files do not, or be something else once it is resolved.
    """
    if isinstance(value, Mapping):
        _check_call(value, file, where)
        for key, below in value.items():
            check(below, file, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            check(below, file, f"{where}[{number}]")
    elif isinstance(value, str) and "${" in value:
        raise _refused(file, value, where, "is resolved only when it is read, and what a run leaves holds no such words")


def _check_call(node: Mapping[str, Any], file: Path, where: str) -> None:
    """What is called by its name; of a call that finds something by its path, what it finds."""
    if "_target_" not in node:
        return
    target = node["_target_"]
    if not _is_named(target, "_target_"):
        raise _refused(file, target, where)
    if target.startswith(FINDERS) and not (node.keys() == {"_target_", "path"} and _is_named(node["path"], "path")):
        raise _refused(file, node.get("path", dict(node)), where)


def figures(spec: Mapping[str, Any], file: Path = Path("meta.json")) -> Callable[..., Any] | None:
    """The function that draws a table's own pictures, as ``spec["pictures"]`` of a folder's file names it; None where it names none.

    Raises:
        RefusedName: no table of the project names it.
    """
    name = spec["pictures"]
    if not name:
        return None
    if not _is_named(name, "pictures"):
        raise _refused(file, name, "table.pictures")
    return get_method(name)


def _is_named(name: Any, key: str) -> bool:
    return isinstance(name, str) and name in named(key)


def _refused(file: Path, name: Any, where: str, why: str = "is named by none of the project's own configuration files") -> RefusedName:
    return RefusedName(
        f"error: {file} names {name!r} ({where or 'at its top'}), which {why}; nothing of the file was executed. A file from a stranger could call anything in "
        "this way. Make the folder anew, or, if you know the name and trust it, write a file under experiments/conf that has it, too"
    )
