"""Large images in little memory, measured in processes of their own."""

import argparse

import pytest

from benchmarks.memory import TASKS, apart


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_large_images_take_less_than_four_gib(task):
    """The published VQGAN at 1024 x 1024; a transformer of 12 layers of width 512 at 512 x 512."""
    result = apart(argparse.Namespace(channels=128, layers=12, width=512, stride=8, threads=2), task)
    assert result["finite"]
    assert result["image"] == [1, 3, 1024, 1024] if task == "tiled" else [1, 3, 512, 512]
    assert result["peak_gib"] < 4
