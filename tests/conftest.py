"""One thread: two threads that share a busy core can be several times slower than one."""

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Shape annotations are not checked: for hundreds of like calls, of which the first has shown all there is, or to reach what they refuse first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
