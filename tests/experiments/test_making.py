"""An error of what a configuration names is one line that says which option mends it."""

import pytest
import torch
from omegaconf import OmegaConf

from experiments import first_stage, settings
from experiments.making import made

ASKED = r"error: the weights of VGG-16 could not be downloaded \(.*no such host.*\): pass a file .* weights=FOLDER, .* budget.distance=FILE"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and nothing downloaded before."""
    pytest.importorskip("lpips")

    def failing(*arguments, **options):
        raise ConnectionRefusedError("no such host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", failing)


@pytest.mark.usefixtures("offline")
def test_a_distance_without_weights_asks_for_the_options_that_give_them():
    with pytest.raises(SystemExit, match=ASKED):
        made(OmegaConf.create({"_target_": "latentcomp.nn.lpips.LPIPS"}))


@pytest.mark.usefixtures("offline")
def test_so_do_the_presets_of_a_table_and_what_judges_them():
    config = settings.composed(["experiment=vqgan/modern", "budget=vqgan/cpu"])
    for begun in (lambda: first_stage.judging(config), lambda: made(config.preset)):
        with pytest.raises(SystemExit, match=ASKED):
            begun()


def test_any_other_error_speaks_for_itself():
    with pytest.raises(SystemExit, match="error: a prior needs at least one site"):
        made(OmegaConf.create({"_target_": "latentcomp.priors.Uniform", "sites": 0, "codes": []}))
    assert made(OmegaConf.create({"_target_": "fractions.Fraction"}), 1, denominator=2) * 2 == 1
