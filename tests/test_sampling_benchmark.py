"""The sampling benchmark: its sides draw from the same network, and what it reports can be read back."""

import argparse
import json

import pytest
import torch

from benchmarks import sampling
from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.noise import Noise


def options(**changes) -> argparse.Namespace:
    """A run of a second."""
    made = {"reference": None, "steps": 6, "codes": 7, "width": 8, "layers": 1, "heads": 2, "repeats": 1, "uncached_repeats": 1, "threads": 1, "device": "cpu"}
    return argparse.Namespace(**made | changes)


def test_the_cached_and_the_uncached_side_draw_the_same_codes():
    torch.manual_seed(0)
    network, r = GPT((7,) * 6, Size(7, 6, 8, 2, 2)).double().eval(), torch.zeros(3, 1, dtype=torch.long)
    noise = lambda: Noise(0, 0, torch.arange(3))  # noqa: E731
    with torch.no_grad():
        assert torch.equal(sampling.uncached(network, r, 6, noise()), AutoregressiveCodes(network, r).sample((), noise()))


def test_what_is_measured_is_reported(monkeypatch):
    monkeypatch.setattr(sampling, "BATCHES", (1, 2))
    result = sampling.measured(options())
    assert result["uncached_over_cached_batch_2"] > 0
    assert {name: len(times) for name, times in result["seconds"]["batch_1"].items()} == {"cached": 1, "uncached": 1}
    assert result["setting"]["steps"] == 6
    json.dumps(result)
    assert "batch  2, uncached" in sampling.report(result)
    assert "batch  2, floor" in sampling.report(result)


def test_the_floor_counts_bytes_and_operations_of_every_step():
    """Summed over the six steps, of which step t looks up t keys and as many values in each of two layers."""
    weights, rows = 2 * 12 * 8**2 + 8 * 7, 3
    numbers = sum(2 * 2 * rows * 8 * t for t in range(1, 7))
    least = sampling.floor(options(layers=2), rows, {"byte": 1e-9, "operation": 1e-12})
    assert least["bytes"] == 4 * (6 * weights + numbers)
    assert least["operations"] == 2 * (rows * 6 * weights + numbers)
    assert least["seconds"] == pytest.approx(1e-9 * least["bytes"])


def test_a_folder_without_the_published_code_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkout of CompVis/taming-transformers"):
        sampling.measured(options(reference=tmp_path))
