"""What the runs on pictures are judged by is what weights lie there for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.own_images import judges as module
from latentcomp.evaluate.extractors import INCEPTION, Extractor


class Distance(nn.Module):
    """Stands for a distance."""

    def __init__(self, weights: Path) -> None:
        super().__init__()


class Features(Extractor):
    """Stands for an extractor."""

    def __init__(self, weights: Path) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing to see."""
        return x.flatten(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with both networks' files, which are read by name alone."""
    for name, kind in {"LPIPS": Distance, "AlexLPIPS": Distance, "Vgg16": Features, "Inception": Features}.items():
        monkeypatch.setattr(module, name, type(name, (kind,), {}))
    for name in (module.VGG, module.ALEX):
        (tmp_path / name).touch()
    return tmp_path


def judged(folder):
    """The names of the networks that judge."""
    made = module.judges(folder, signed=True)
    return [type(network).__name__ for network in (*made.distances.values(), *made.extractors)]


def test_inception_judges_too_where_its_weights_lie(folder):
    assert judged(folder) == ["LPIPS", "AlexLPIPS", "Vgg16"]
    (folder / Path(INCEPTION).name).touch()
    assert judged(folder) == ["LPIPS", "AlexLPIPS", "Vgg16", "Inception"]
    assert judged(None) == []
