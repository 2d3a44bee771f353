"""The Fabric that a configuration asks for."""

from datetime import timedelta

import pytest

from experiments import settings
from experiments.machine import fabric


def test_processes_give_up_waiting_after_the_timeout_of_the_configuration(monkeypatch):
    """For one that was lost without a word."""
    lightning = pytest.importorskip("lightning_fabric")
    monkeypatch.setattr(lightning.Fabric, "launch", lambda self: None)
    made = fabric(settings.composed(["experiment=digits/vq_ema", "machine.devices=2", "machine.timeout=7"]))
    assert made.strategy._timeout == timedelta(seconds=7)
    assert made.world_size == 2
