"""One run in the test process itself, so that it has imported everything when victims are forked from it."""

import pytest
import torch

from tests.faults.victims import run


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory) -> None:
    """Imports take seconds."""
    with torch.random.fork_rng():
        run("gflownet_replay", tmp_path_factory.mktemp("warm"), updates=2)
