"""What is timed: each side makes the same four things, in its own way."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

SITES = 16
RATES = {"network": 2e-4, "log_z": 0.1}  # Adam's, as published
SLEEP_WEIGHT = 10.0  # of the mean -log q(z|x) / 16


class Setting(NamedTuple):
    """The size of the problem.

    Attributes:
        channels: C of all networks.
        codes: K.
        batch: B, of the steps.
        device: where both sides compute.
        checkout: the folder of the published code, where there is one.
    """

    channels: int = 128
    codes: int = 10
    batch: int = 128
    device: str = "cpu"
    checkout: str | None = None


class Side(ABC):
    """One implementation: three kinds of parameter update on one fixed batch, and the importance-weighted estimate.

    Args:
        setting: the sizes.
        x: ``(B, 1, 28, 28)`` the images of the steps.
    """

    def __init__(self, setting: Setting, x: Tensor) -> None:
        self.setting, self.x = setting, x

    @classmethod
    def imports(cls, setting: Setting) -> None:
        """Imports what the side needs beyond this package, so that it does not count as memory of the side's work: nothing, for most."""
        return

    @abstractmethod
    def e_step(self) -> None:
        """One update of phi by trajectory balance, on samples of q."""

    @abstractmethod
    def sleep_step(self) -> None:
        """One update of phi on dreams."""

    @abstractmethod
    def m_step(self) -> None:
        """One update of theta on greedy codes."""

    @abstractmethod
    def log_px(self, x: Tensor, samples: int) -> Tensor:
        """The estimate of log p(x) for each image, in nats, by ``samples`` samples of q."""


def images(setting: Setting) -> Tensor:
    """A batch of random binary images: what a step costs does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(setting.batch, 1, 28, 28, generator=generator) < 0.15).float().to(setting.device)
