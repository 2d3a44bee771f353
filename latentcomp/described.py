"""Modules that remember what they were made with, so that they can be described as JSON and made again elsewhere."""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Described:
    """A mixin, first among the bases: keeps the arguments of the constructor, as they were given.

    Attributes:
        left_out: arguments that no description tells and none can set, such as the paths of weights that are saved themselves, and what is passed instead.
    """

    left_out: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in cls.__dict__:
            cls.__init__ = _remembering(cls, cls.__init__)  # type: ignore[method-assign]


def nameable(function: Function) -> Function:
    """Marks a function that descriptions may name: a stranger's description decides then what it is called with, so that it must do nothing but compute."""
    function.__dict__["_nameable"] = True
    return function


def is_nameable(function: Any) -> bool:
    """Whether it was marked."""
    return "_nameable" in getattr(function, "__dict__", {})


def made_with(module: Described, **arguments: Any) -> None:
    """Says of a copy that differs from its original what it would have been made with."""
    kind, given, keywords = module.__dict__["_made_with"]
    bound = inspect.signature(kind.__init__).bind(module, *given, **keywords)
    bound.arguments.update(arguments)
    module.__dict__["_made_with"] = (kind, bound.args[1:], bound.kwargs)


def _remembering(kind: type, init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def remembered(self: Any, *arguments: Any, **keywords: Any) -> None:
        # only the outermost class's: a parent's constructor is called with what the child makes of its own arguments
        # and the class stands for its constructor, which pickle could not find by its name
        self.__dict__.setdefault("_made_with", (kind, arguments, keywords))
        init(self, *arguments, **keywords)

    return remembered
