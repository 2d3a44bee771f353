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


def test_where_there_is_no_accelerator_auto_needs_no_fabric(monkeypatch):
    """Own images ask for the GPU where there is one; elsewhere lightning-fabric need not be installed."""
    config = settings.composed(["experiment=images/first_stage"])
    assert config.machine.accelerator == "auto"
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert fabric(config) is None
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    lightning = pytest.importorskip("lightning_fabric")
    monkeypatch.setattr(lightning.Fabric, "launch", lambda self: None)
    assert fabric(config).world_size == 1
