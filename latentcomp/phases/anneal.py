"""Numbers that change over a run, such as the temperature of a relaxation."""

from typing import NamedTuple


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
