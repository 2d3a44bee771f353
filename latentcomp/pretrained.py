"""Models as two files, which anyone may publish and anyone may load: weights as safetensors, and how the model is built as JSON.

The JSON names classes and their arguments. Loading builds only modules of this package and of ``torch.nn``, and classes that the caller passes as trusted;
it imports nothing else and executes nothing, so a stranger's file can at worst be refused. Functions are named too, if they are this package's and marked
``nameable``, or trusted. Frozen networks, such as a perceptual distance's, are saved with all other weights; the paths that they came from are not told.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from latentcomp import _version
from latentcomp.checkpoint import written
from latentcomp.described import Described, is_nameable
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior

CONFIG, WEIGHTS, FORMAT = "config.json", "model.safetensors", 1
OURS = ("latentcomp.", "torch.nn.modules.")


class Pretrained(NamedTuple):
    """What was saved.

    Attributes:
        model: p(x, z).
        posterior: q(z|x), or None.
        about: whatever its author said.
    """

    model: LatentVariableModel
    posterior: Posterior | None
    about: dict[str, Any]


def save_pretrained(folder: Path | str, model: LatentVariableModel, posterior: Posterior | None = None, about: Mapping[str, Any] | None = None) -> Path:
    """Writes ``config.json`` and ``model.safetensors``.

    Args:
        folder: where; made if it is not there.
        model: p(x, z).
        posterior: q(z|x), to save beside it.
        about: anything that JSON can hold: what it was trained on, how good it is.

    Returns:
        The folder.

    Raises:
        TypeError: a part does not remember how it was made; names it and the remedy.
    """
    from safetensors.torch import save

    parts = {"model": model} | ({} if posterior is None else {"posterior": posterior})
    config: dict[str, Any] = {"format": FORMAT, "latentcomp": _version.__version__, "about": dict(about or {})}
    config |= {name: description(part, name) for name, part in parts.items()}
    weights = save({f"{name}.{key}": tensor.detach().cpu().contiguous().clone() for name, part in parts.items() for key, tensor in part.state_dict().items()})
    config["sha256"] = hashlib.sha256(weights).hexdigest()
    for name, content in ((WEIGHTS, weights), (CONFIG, f"{json.dumps(config, indent=2)}\n".encode())):
        with written(Path(folder) / name) as file:
            file.write(content)
    return Path(folder)


def from_pretrained(source: Path | str, trusted: Sequence[type | Callable[..., Any]] = (), revision: str | None = None) -> Pretrained:
    """Reads what :func:`save_pretrained` wrote.

    Args:
        source: a folder, or the name ``owner/name`` of a repository on the Hugging Face hub, which is then downloaded.
        trusted: classes and functions of your own that the configuration may name.
        revision: of a repository on the hub.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: the files are damaged, of another format, or name a class or function that is not trusted.
    """
    from safetensors.torch import load

    files = {name: _file(source, name, revision) for name in (CONFIG, WEIGHTS)}
    config, weights = _config(files[CONFIG]), files[WEIGHTS].read_bytes()
    if hashlib.sha256(weights).hexdigest() != config["sha256"]:
        raise ValueError(f"{files[WEIGHTS]} is damaged: it is not what {CONFIG} says was written. Get it again")
    classes = {_name(kind): kind for kind in trusted}
    with torch.random.fork_rng(devices=[]):  # they are made with random weights first, of which nobody's generator should know
        parts = {name: built(config[name], classes) for name in ("model", "posterior") if name in config}
    tensors = load(weights)
    for name, part in parts.items():
        part.load_state_dict({key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")})
        part.eval()
    return Pretrained(parts["model"], parts.get("posterior"), config["about"])


def _file(source: Path | str, name: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        if not (Path(source) / name).is_file():
            raise FileNotFoundError(f"{source} holds no {name}: it was not written by save_pretrained")
        return Path(source) / name
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise FileNotFoundError(f"{source} is no folder, and to look for it on the hub needs huggingface-hub: pip install 'latentcomp[engine]'") from None
    return Path(hf_hub_download(str(source), name, revision=revision))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is no JSON ({error}). Get it again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not {"model", "about", "sha256"} <= config.keys():
        raise ValueError(f"{path} is no configuration of format {FORMAT}, which this version of latentcomp ({_version.__version__}) reads")
    return config


def description(value: Any, where: str = "") -> Any:
    """Anything that a constructor takes, as JSON: numbers, strings, lists, modules that remember how they were made, named tuples, classes and functions.

    Raises:
        TypeError: names what cannot be described.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, type):
        return {"class": _name(value)}
    if inspect.isfunction(value):
        return {"function": _checked(value, where)}
    if (isinstance(value, tuple) and hasattr(value, "_fields")) or dataclasses.is_dataclass(value):
        return {"class": _name(type(value)), "arguments": {key: description(getattr(value, key), f"{where}.{key}") for key in _fields(type(value))}}
    if isinstance(value, torch.Tensor) and value.dtype == torch.long:
        return {"whole numbers": value.tolist()}
    if isinstance(value, list | tuple):
        return [description(below, f"{where}[{number}]") for number, below in enumerate(value)]
    if isinstance(value, nn.Module | Described):
        arguments = {key: description(argument, f"{where}.{key}") for key, argument in _arguments(value, where).items()}
        return {"class": _name(type(value)), "arguments": arguments}
    raise TypeError(f"{where} is of type {type(value).__name__}, which JSON cannot describe: make it of numbers, strings, lists, classes or described modules")


def _arguments(module: nn.Module | Described, where: str) -> dict[str, Any]:
    """What a module was made with; a part that was exchanged afterwards, as it is now."""
    if isinstance(module, nn.Module) and type(module) in (nn.Sequential, nn.ModuleList):
        return {"*": list(module.children())}
    if not isinstance(module, Described):
        return _of_torch(module, where)
    if "_made_with" not in module.__dict__:  # it has no constructor of its own, or torch's
        return (_of_torch(module, where) if isinstance(module, nn.Module) else {}) | _left_out(type(module))
    kind, given, keywords = module.__dict__["_made_with"]
    signature = inspect.signature(kind.__init__)
    several = {key for key, parameter in signature.parameters.items() if parameter.kind is inspect.Parameter.VAR_POSITIONAL}
    bound = list(signature.bind(module, *given, **keywords).arguments.items())[1:]
    return {"*" if key in several else key: _now(module, key, value) for key, value in bound} | _left_out(type(module))


def _left_out(kind: type) -> dict[str, Any]:
    """What stands in the place of arguments that are not told."""
    known = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {key: value for key, value in kind.left_out.items() if key in known} if issubclass(kind, Described) else {}


def _checked(function: Callable[..., Any], where: str) -> str:
    if "<" in function.__qualname__:
        raise TypeError(f"{where} is the function {function.__qualname__}, which has no name of its own: define it with def, outside any function")
    return _name(function)


def _now(module: nn.Module | Described, key: str, value: Any) -> Any:
    return getattr(module, key) if isinstance(value, nn.Module) and isinstance(getattr(module, key, None), nn.Module) else value


def _of_torch(module: nn.Module, where: str) -> dict[str, Any]:
    """Of torch's own layers: attributes of the constructor's names; whether there is a bias is a matter of whether there is one."""
    if not isinstance(module, Described) and not type(module).__module__.startswith("torch.nn.modules."):
        raise TypeError(
            f"{where} is a {type(module).__name__}, which does not remember how it was made: derive it from latentcomp.described.Described first, "
            f"class {type(module).__name__}(Described, nn.Module)"
        )
    if type(module).__init__ is nn.Module.__init__ or type(module) is nn.Identity:
        return {}
    names = [name for name in inspect.signature(type(module).__init__).parameters if name not in ("self", "device", "dtype") and not name.startswith("_")]
    lost = [name for name in names if not hasattr(module, name) or inspect.ismethod(getattr(module, name))]
    if lost:
        raise TypeError(
            f"{where} is a {type(module).__name__}, which does not say what it was made with ({', '.join(lost)}): make it inside a class of your own that "
            "derives from latentcomp.described.Described"
        )
    values = {name: getattr(module, name) for name in names}
    return {name: value is not None if isinstance(value, torch.Tensor) or name == "bias" else value for name, value in values.items()}


def _fields(kind: type) -> tuple[str, ...]:
    """Of a tuple with names or a dataclass; of other classes none."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else getattr(kind, "_fields", ())


def _name(kind: type | Callable[..., Any]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def built(described: Any, trusted: Mapping[str, Any]) -> Any:
    """What a description describes, with new weights.

    Raises:
        ValueError: it names a class that is neither a module of this package or of ``torch.nn`` nor trusted, or such a function.
    """
    if isinstance(described, list):
        return tuple(built(below, trusted) for below in described)
    if not isinstance(described, dict):
        return described
    if "whole numbers" in described:
        return torch.tensor(described["whole numbers"])
    if "function" in described:
        return _function(described["function"], trusted)
    kind = _class(described["class"], trusted)
    if "arguments" not in described:
        return kind
    arguments = {key: built(value, trusted) for key, value in described["arguments"].items()} | _left_out(kind)
    several = arguments.pop("*", ())
    return kind([*several]) if kind is nn.ModuleList else kind(*several, **arguments)


def _function(name: str, trusted: Mapping[str, Any]) -> Callable[..., Any]:
    if name in trusted:
        return trusted[name]
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None) if name.startswith("latentcomp.") else None
    if not (inspect.isfunction(found) and found.__module__ == module and is_nameable(found)):
        raise ValueError(f"the configuration names {name!r}, which is no nameable function of latentcomp: if you trust it, pass trusted=[{attribute}]")
    return found


def _class(name: str, trusted: Mapping[str, Any]) -> type:
    if name in trusted:
        return trusted[name]
    module, _, attribute = name.rpartition(".")
    found = getattr(importlib.import_module(module), attribute, None) if name.startswith(OURS) else None
    if not (isinstance(found, type) and found.__module__ == module and (issubclass(found, nn.Module | Described) or _fields(found))):
        raise ValueError(f"the configuration names {name!r}, which is no module of latentcomp or torch.nn: if you trust it, pass trusted=[{attribute}]")
    return found
