"""What the benchmark of the lookup compares does the same work; it says so before it times anything."""

import pytest
import torch

from benchmarks import codebook as benchmark


def test_both_sides_agree_and_a_difference_is_named(monkeypatch):
    monkeypatch.setattr(benchmark, "SITES", 16)
    assert {"ours, rotation", "theirs, rotation", "bare"} <= benchmark.tasks(40, 8).keys()
    monkeypatch.setattr(benchmark.objectives, "rotation_trick", benchmark.objectives.straight_through)
    with pytest.raises(RuntimeError, match="rotation: both sides must give the same gradients of h"):
        benchmark.tasks(40, 8)


def test_the_floor_counts_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(benchmark, "SITES", 256)
    least = benchmark.floor(8192, 32, 0.1)
    assert least["operations"] == 2 * 2048 * 8192 * 32
    assert least["bytes"] == 4 * (2 * 2048 * 32 + 2 * 8192 * 32)
    assert least["seconds"] == pytest.approx(0.1 * least["operations"] / (2 * 2048**3))


def test_ratios_are_of_medians():
    times = {name: [1.0, scale, 9.0] for name, scale in zip(("theirs, rotation", "theirs, straight-through"), (6.0, 8.0), strict=True)}
    times |= {name: [0.1, 2.0, 3.0] for name in ("ours, rotation", "ours, straight-through", "product")} | {"bare": [4.0, 4.0, 4.0]}
    found = benchmark.ratios(8192, 32, times)
    assert (found["rotation"], found["straight_through"], found["over_bare"]) == (3.0, 4.0, 0.5)
    assert torch.tensor(found["over_floor"]).isfinite()
