"""Configurations in the layout of the published yaml files: ``target`` names a class, ``params`` are its arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any, NoReturn

TextFile = IO[str] | IO[bytes] | StringIO | BytesIO


@dataclass(frozen=True)
class Config:
    """One node: what to build, and with what.

    Attributes:
        kind: the last word of ``target``, such as "VQModel"; forks moved the modules around, but kept the names.
        params: its arguments.
    """

    kind: str
    params: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """An argument that must be there.

        Raises:
            ValueError: it is not; names it.
        """
        if name not in self.params:
            raise ValueError(f"the config of {self.kind} lacks params.{name}: use the yaml file that was published beside the checkpoint")
        return self.params[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that may be left out."""
        return self.params.get(name, default)

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; one without a default must be there.

        Raises:
            ValueError: it is not, or is no whole number, or less than ``least``; names it.
        """
        value = self[name] if default is None else self.get(name, default)
        return value if _is_whole(value, least) else self._refused(name, f"a whole number of at least {least}")

    def wholes(self, name: str) -> tuple[int, ...]:
        """A list of positive whole numbers, which must be there.

        Raises:
            ValueError: it is not, or is no such list; names it.
        """
        value = self[name]
        listed = isinstance(value, Sequence) and all(_is_whole(entry, 1) for entry in value)
        return tuple(value) if listed else self._refused(name, "a list of whole numbers of at least 1")

    def rate(self, name: str) -> float:
        """A share that may be left out, such as that of dropout: 0 then.

        Raises:
            ValueError: it is no number, or lies outside [0, 1]; names it.
        """
        value = self.get(name, 0.0)
        share = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
        return float(value) if share else self._refused(name, "a number in [0, 1]")

    def _refused(self, name: str, wanted: str) -> NoReturn:
        raise ValueError(f"{self.kind}.params.{name} must be {wanted}, got {self.get(name)!r}: use the yaml file that was published beside the checkpoint")

    def node(self, name: str) -> "Config":
        """An argument that is a node itself."""
        return node(self[name], f"{self.kind}.params.{name}")

    def section(self, name: str) -> "Config":
        """An argument that is a plain dictionary, such as ``ddconfig``."""
        if not isinstance(self[name], Mapping):
            raise ValueError(f"{self.kind}.params.{name} must be a dictionary, got {self[name]!r}")
        return Config(name, self[name])


def _is_whole(value: object, least: int) -> bool:
    """A flag is no number here, though Python takes True for 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def node(value: object, where: str) -> Config:
    """The node in a dictionary.

    Raises:
        ValueError: it has no ``target``, or arguments that are no dictionary.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("target"), str) or not isinstance(value.get("params") or {}, Mapping):
        raise ValueError(f"{where} must be a dictionary with a 'target' (a class name) and 'params', as in the published yaml files; got {value!r}")
    return Config(value["target"].split(".")[-1], value.get("params") or {})


def read_config(config: str | Path | TextFile | Mapping[str, Any]) -> Config:
    """The model's node of a configuration.

    Args:
        config: the path of a yaml file, an open one, or what such a file holds; the model's node, or a dictionary with it under ``model``.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the yaml reader is not installed.
        ValueError: no yaml, or no such node.
    """
    content = config if isinstance(config, Mapping) else _yaml(config)
    if isinstance(content, Mapping) and "model" in content:
        content = content["model"]
    return node(content, "the config")


def _yaml(config: str | Path | TextFile) -> object:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("reading a yaml file needs the package pyyaml: python -m pip install 'latentcomp[taming]', or pass a dictionary") from error
    text = Path(config).read_text() if isinstance(config, str | Path) else config.read()
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the config is no plain yaml file: {error}") from error
