"""Numbers that change over a run, such as the temperature of a relaxation."""

import math
from typing import NamedTuple, Protocol, runtime_checkable


@runtime_checkable
class Annealed(Protocol):
    """A number as a function of the step."""

    def __call__(self, step: int) -> float:
        """The value at a step."""
        ...


class Constant(NamedTuple):
    """The same value at every step."""

    value: float = 1.0

    def __call__(self, step: int) -> float:
        """The value."""
        return self.value


class Exponential(NamedTuple):
    """Geometrically from ``start`` to ``end`` within ``steps`` steps, then constant (Jang et al., 2017)."""

    start: float = 1.0
    end: float = 0.5
    steps: int = 1000

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.start * (self.end / self.start) ** min(step / self.steps, 1.0)


class Cosine(NamedTuple):
    """Half a cosine from ``start`` to ``end`` within ``steps`` steps, then constant, as the temperature of the published Gumbel VQGAN (Esser et al., 2021)."""

    start: float = 0.9
    end: float = 1e-6
    steps: int = 1000

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2
