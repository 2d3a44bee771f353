"""What the runs on pictures are judged by is what weights lie there for."""

from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import settings
from experiments.own_images import first_stage
from experiments.own_images import judges as module
from latentcomp.evaluate.extractors import INCEPTION, Extractor
from tests import pictures
from tests.experiments.stages import FIRST


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


def test_squares_too_small_for_ssim_are_learned_and_the_record_says_why_it_has_none(tmp_path):
    options = ("experiment=images/first_stage", "budget=images/smoke", *FIRST, f"data.root={pictures.folder(tmp_path / 'pictures')}", "crop=4")
    records, made = first_stage.execute(settings.composed([*options]), "row", folder=tmp_path / "run")
    without = {record["metric"]: record["reason"] for record in records if record["value"] is None}
    assert without.keys() == {"ssim", "bicubic_ssim"}
    assert all("6 pixels a side are the least" in reason for reason in without.values())
    assert [look["step"] for look in made["curve"]] == [2, 4]
    with pytest.raises(SystemExit, match="watched=ssim needs crop=6 or larger: an image is too small for SSIM's window.*watch l1 or psnr"):
        first_stage.execute(settings.composed([*options, "watched=ssim"]), "row", folder=tmp_path / "ssim")
