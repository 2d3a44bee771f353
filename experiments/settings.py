"""Configurations: composing a row of a table, and saying what exists where something does not."""

import difflib
import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from experiments import options
from latentcomp.data.mnist_like import LABELS, NAMES

CONF = Path(__file__).parent / "conf"

OmegaConf.register_new_resolver("repeat", lambda value, times: OmegaConf.create([value] * times), replace=True)
OmegaConf.register_new_resolver("minus_log", lambda value, codes: value - math.log(codes), replace=True)
OmegaConf.register_new_resolver("share", lambda value, part: int(value * part), replace=True)
OmegaConf.register_new_resolver("shares", lambda values, part: OmegaConf.create([int(value * part) for value in values]), replace=True)
OmegaConf.register_new_resolver("bits", lambda codes: int(codes).bit_length() - 1, replace=True)
OmegaConf.register_new_resolver("product", lambda values: math.prod(values), replace=True)
OmegaConf.register_new_resolver("length", len, replace=True)
OmegaConf.register_new_resolver("vgg", lambda folder: None if folder is None else f"{folder}/vgg16_features.safetensors", replace=True)
OmegaConf.register_new_resolver("pixels", lambda binarisation: LABELS[binarisation], replace=True)
OmegaConf.register_new_resolver("images", lambda name: NAMES[name], replace=True)
OmegaConf.register_new_resolver("nth", lambda value, parts: max(1, value // parts), replace=True)
OmegaConf.register_new_resolver("at_most", min, replace=True)
OmegaConf.register_new_resolver("root", math.isqrt, replace=True)
OmegaConf.register_new_resolver("times", lambda value, by: value * by, replace=True)
OmegaConf.register_new_resolver("ratio", lambda value, by: value / by, replace=True)
OmegaConf.register_new_resolver("sites", lambda side, multipliers: (side // 2 ** (len(multipliers) - 1)) ** 2, replace=True)
OmegaConf.register_new_resolver("half", lambda value: value // 2, replace=True)


class UnknownName(SystemExit):
    """A table, row, budget or setting that does not exist; the message lists those that do."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that does not exist."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, 1)
    guess = f" Did you mean {near[0]}?" if near else ""
    return UnknownName(f"error: there is no {kind} {name!r}.{guess} Known: {', '.join(known)}")


def tables() -> list[str]:
    """The tables that can be reproduced."""
    return sorted(path.stem for path in (CONF / "table").glob("*.yaml"))


def table(name: str) -> dict[str, Any]:
    """What a table shows: its rows, columns and words. A table that is another with other settings says ``like`` which, and what differs.

    Raises:
        UnknownName: lists the tables that exist.
    """
    if name not in tables():
        raise unknown("table", name, tables())
    spec = OmegaConf.to_container(OmegaConf.load(CONF / "table" / f"{name}.yaml"))
    assert isinstance(spec, dict)
    own = {str(key): value for key, value in spec.items()}
    return {"experiments": own["like"]} | table(own["like"]) | own if "like" in own else own


def worded(spec: dict[str, Any], config: DictConfig) -> dict[str, Any]:
    """The table's words with the settings of a run in the places that name one, ``${codes}``: another data set or K must not go by the name of the usual."""
    both = OmegaConf.create({**OmegaConf.to_container(config), "words": spec})  # type: ignore[dict-item]
    words = OmegaConf.to_container(both.words, resolve=True)
    assert isinstance(words, dict)
    return {str(key): value for key, value in words.items()}


@functools.cache  # to compose a row takes a quarter of a second
def worded_as_usual(name: str, budget: str = "cpu") -> dict[str, Any]:
    """The table's words with its usual settings; a budget that is not the default stands in the title."""
    spec = table(name)
    words = worded(spec, row(name, spec["rows"][0], budget, 0))
    return words if budget == "cpu" else words | {"title": f"{words['title']} (budget={budget})"}


def budgets(spec: dict[str, Any]) -> list[str]:
    """The budgets of a table."""
    return sorted(path.stem for path in (CONF / "budget" / spec["budgets"]).glob("*.yaml"))


def row(table_name: str, name: str, budget: str, seed: int, overrides: Sequence[str] = ()) -> DictConfig:
    """The whole configuration of one run. The rows of a table are files of its own folder under experiment/, or of another table's (``experiments``), with the
    table's own overrides.

    Raises:
        UnknownName: an override names a setting that does not exist; lists those that do.
    """
    spec = table(table_name)
    file, own = f"experiment={spec.get('experiments', table_name)}/{name}", spec.get("overrides", [])
    return composed([file, f"budget={spec['budgets']}/{budget}", f"seed={seed}", *own, *overrides])


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that hydra composes.

    Raises:
        UnknownName: an option or a setting that does not exist; lists those that do.
        RefusedOption: one that the procedure does not honour; names both.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("config", list(overrides))
        except HydraException as error:
            raise _explained(error, overrides) from None
    options.refuse(config)
    return config


def _explained(error: HydraException, overrides: Sequence[str]) -> UnknownName:
    """Hydra's error, with the list of what exists."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        group = CONF / key.split("@")[0]
        if group.is_dir():
            options = [str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml")]
            if value not in options:
                return unknown(key, value, options)
        elif key in str(error) and not _exists(key):
            return unknown("setting", key, _settings())
    return UnknownName(f"error: {error}")


def _settings() -> list[str]:
    """The dotted names of all settings of the default configuration, and the groups."""
    config = compose("config")

    def names(node: Any, prefix: str) -> Iterable[str]:
        for key in node:
            yield f"{prefix}{key}"
            if not OmegaConf.is_interpolation(node, key) and OmegaConf.is_dict(node[key]):
                yield from names(node[key], f"{prefix}{key}.")

    return [*names(config, ""), *(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "table")]


def _exists(key: str) -> bool:
    return key in _settings()
