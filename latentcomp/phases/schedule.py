"""Schedules: when to do an E-step and when an M-step.

A schedule looks at the number of the step and at statistics of whole steps, never at one process's share of a batch, so that all processes agree.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

E, M, BOTH = "E", "M", "E+M"


class Schedule(nn.Module, ABC):
    """A rule that names the updates of a step, in order: "E" (phi), "M" (theta), or "E+M", both in one update.

    Attributes:
        reads_loss: whether it looks at the E-step's loss.
    """

    reads_loss = False

    @abstractmethod
    def updates(self, step: int) -> Sequence[str]:
        """The updates of this step."""

    def update(self, step: int, statistics: Mapping[str, Tensor]) -> None:
        """Learns from the statistics of the whole step that was just made."""


class EachBatch(Schedule):
    """An E-step and then an M-step on every batch: the partial EM of Neal and Hinton (1998)."""

    def updates(self, step: int) -> Sequence[str]:
        """E, then M."""
        return (E, M)


class Together(Schedule):
    """One update that moves theta and phi at once."""

    def updates(self, step: int) -> Sequence[str]:
        """E+M."""
        return (BOTH,)


class OnlyE(Schedule):
    """E-steps alone: theta stays frozen, and q learns its posterior."""

    def updates(self, step: int) -> Sequence[str]:
        """E."""
        return (E,)


class Period(Schedule):
    """Phases of fixed length, one after the other.

    Args:
        e_steps: the length of an E-phase.
        m_steps: the length of an M-phase.
        first: "E" or "M".
        offset: how many steps into the cycle the run begins; the published GFlowNet-EM code counts from 1, so its first M-phase is one step short.

    Raises:
        ValueError: a length is negative, both are 0, or ``first`` is neither.
    """

    def __init__(self, e_steps: int = 1, m_steps: int = 1, first: str = E, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        if first not in (E, M):
            raise ValueError(f'first must be "E" or "M", got {first!r}')
        if min(e_steps, m_steps) < 0 or e_steps + m_steps == 0:
            raise ValueError(f"phases have a length of 0 or more, and not both of 0; got e_steps={e_steps}, m_steps={m_steps}")
        self.phases = (E,) * e_steps + (M,) * m_steps if first == E else (M,) * m_steps + (E,) * e_steps

    def updates(self, step: int) -> Sequence[str]:
        """E or M, as the step's place in the cycle says."""
        return (self.phases[(step + self.offset) % len(self.phases)],)


class Threshold(Schedule):
    """E-steps until their running loss falls below a threshold, then one M-step (Hu et al., 2023, algorithm 1).

    Args:
        threshold: in the units of the loss; nats squared for trajectory balance and the log-variance.
        patience: the most E-steps in a row; then an M-step comes whatever the loss.
        decay: of the running mean of the loss.
    """

    reads_loss = True
    average: Tensor
    row: Tensor

    def __init__(self, threshold: float, patience: int = 100, decay: float = 0.9) -> None:
        super().__init__()
        self.threshold, self.patience, self.decay = threshold, patience, decay
        self.register_buffer("average", torch.tensor(float("inf")))
        self.register_buffer("row", torch.tensor(0))

    def updates(self, step: int) -> Sequence[str]:
        """M when the loss is low enough or patience is at its end, else E."""
        return (M,) if bool(self.average < self.threshold) or int(self.row) >= self.patience else (E,)

    def update(self, step: int, statistics: Mapping[str, Tensor]) -> None:
        """After an E-step the running mean moves; after an M-step a new row of E-steps begins, with a running mean of its own."""
        if self.updates(step) == (M,):
            self.row.zero_()
            self.average.fill_(float("inf"))
            return
        self.row.add_(1)
        if "e_loss" in statistics:
            loss = statistics["e_loss"].mean().to(self.average.dtype)
            self.average.copy_(torch.where(self.average.isinf(), loss, self.average.lerp(loss, 1 - self.decay)))
