"""Configurations in the layout of the published yaml files: ``target`` names a class, ``params`` are its arguments."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import IO, Any

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

    def node(self, name: str) -> "Config":
        """An argument that is a node itself."""
        return node(self[name], f"{self.kind}.params.{name}")

    def section(self, name: str) -> "Config":
        """An argument that is a plain dictionary, such as ``ddconfig``."""
        if not isinstance(self[name], Mapping):
            raise ValueError(f"{self.kind}.params.{name} must be a dictionary, got {self[name]!r}")
        return Config(name, self[name])


def node(value: object, where: str) -> Config:
    """The node in a dictionary.

    Raises:
        ValueError: it has no ``target``.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("target"), str):
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
