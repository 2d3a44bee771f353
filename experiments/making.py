"""What the parts of a configuration name is made here, and an error of it becomes one line: in its own words, with the options that mend it."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

OPTIONS = "weights=FOLDER, the folder of vgg16_features.safetensors"


def made(node: DictConfig | dict[str, Any] | None, *arguments: Any, **settings: Any) -> Any:
    """What a part of the configuration names; an error of it in its own words.

    Raises:
        SystemExit: it cannot be made.
    """
    try:
        return instantiate(node, *arguments, **settings)
    except InstantiationException as error:
        raise SystemExit(f"error: {_said(error.__cause__ or error)}") from error


def _said(error: BaseException) -> str:
    """The library knows no options."""
    if isinstance(error, ConnectionError):
        return f"{error}. On the command line give {OPTIONS}, or where a table judges by LPIPS budget.distance=FILE"
    return str(error)
