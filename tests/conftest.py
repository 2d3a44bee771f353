"""One thread: two threads that share a busy core can be several times slower than one. And what is imported is no garbage."""

import gc

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Takes all there is by then out of the collector's sight: statsmodels collects garbage at every call, which takes a tenth of a second with it."""
    gc.freeze()


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Shape annotations are not checked: for hundreds of like calls, of which the first has shown all there is, or to reach what they refuse first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
