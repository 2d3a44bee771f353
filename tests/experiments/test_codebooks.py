"""Every codebook's config builds what it says and trains; the collapse table counts what it says."""

import pytest
import torch

from experiments import collapse, settings
from experiments.execute import build
from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.fsq import FSQ
from latentcomp.codebook.lfq import LFQ
from latentcomp.codebook.residual_vq import ResidualVQ
from latentcomp.codebook.sim_vq import SimVQ
from latentcomp.codebook.space import Sphere
from latentcomp.codebook.start import KMeans, SmallUniform
from latentcomp.objectives import rotation_trick
from latentcomp.train import fit
from tests import small_mnist

CONFIGS: dict[str, tuple[type, tuple[str, ...]]] = {
    "gradient": (Codebook, ()),
    "restart": (Codebook, ()),
    "legacy": (Codebook, ()),
    "sphere": (Codebook, ()),
    "ema": (EMACodebook, ()),
    "kmeans": (EMACodebook, ()),
    "modern": (EMACodebook, ("learner=rotation_trick",)),
    "sim_vq": (SimVQ, ("learner=rotation_trick",)),
    "fsq": (FSQ, ("codes=1000", "width=4", "learner.codebook_weight=0.0", "learner.commitment_weight=0.0")),
    "lfq": (LFQ, ("codes=16", "width=4", "learner=lfq")),
    "residual": (ResidualVQ, ("sites=8", "model.decoder.sites=4", "posterior.encoder._args_.1.sites=4")),
}


def test_every_config_is_tried():
    assert set(CONFIGS) | {"published_ema"} == {path.stem for path in (settings.CONF / "codebook").glob("*.yaml")}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_codebook_s_config_builds_and_trains(name):
    kind, overrides = CONFIGS[name]
    config = settings.composed(["experiment=digits/vq_gradient", f"codebook@model.codebook={name}", "budget=digits/smoke", *overrides])
    made = build(config)
    codebook = made.model.codebook
    assert type(codebook) is kind
    if isinstance(codebook, Codebook):
        assert isinstance(codebook.space, Sphere) == (name in ("sphere", "modern"))
        assert isinstance(codebook.start, KMeans) == (name in ("kmeans", "modern"))
        assert isinstance(codebook.start, SmallUniform) == (name == "legacy")
        assert codebook.restart == {"gradient": 0.0, "legacy": 0.0, "modern": 0.1}.get(name, 0.01)
    assert (made.learner.gradient is rotation_trick) == ("learner=rotation_trick" in overrides)
    *_, metrics = fit(made.model, made.learner, made.data.batches(20, 2), made.descent.optimizer)
    assert metrics["m_loss"].isfinite()
    assert ("entropy" in metrics) == (name == "lfq")


def test_the_legacy_row_weighs_its_terms_as_the_published_mean_does():
    """(rec / P) + 1 |h - sg e|^2 / (N D) + 0.25 |sg h - e|^2 / (N D), times P; the modern row's commitment is 0.25 on the same scale."""
    legacy, modern = (settings.row("collapse", row, "cpu", 0) for row in ("legacy", "modern"))
    pixels, sites = 28 * 28, 49
    assert legacy.learner.commitment_weight == pixels / (sites * legacy.width)
    assert legacy.learner.codebook_weight == 0.25 * legacy.learner.commitment_weight
    assert modern.learner.commitment_weight == 0.25 * pixels / (sites * modern.width)
    same = ("data", "optimizer", "budget", "batches", "codes", "sites", "channels")
    assert all(legacy[key] == modern[key] for key in same)
    assert legacy.budget.validation * sites >= 20_000
    assert legacy.budget.seeds == 3


def test_codes_in_use_are_those_of_all_images(tmp_path, monkeypatch):
    small = ("codes=64", "budget.validation=20", "budget.look_images=5", "budget.test=4", "budget.size=20", f"data.root={small_mnist.write(tmp_path)}")
    config = settings.row("collapse", "modern", "smoke", 0, small)
    monkeypatch.setattr(collapse, "CHUNK", 7)
    made = build(config)
    found, nll = collapse.judged(made.model, made.learner, made.data.validation)
    with torch.no_grad():
        z = made.learner.posterior(made.model, made.data.validation).mode
        wanted = -made.model.log_likelihood(made.data.validation, z)
    assert found.used == len(set(z.flatten().tolist())) / 64
    assert found.counts.sum() == 20 * 49
    torch.testing.assert_close(nll, wanted)
    records, pictures = collapse.execute(config, "modern")
    values = {record["metric"]: record["value"] for record in records}
    assert values["tokens"] == 20 * 49
    assert values["tokens_few"] == 5 * 49
    assert 100 - pictures["curve"][-1]["val_nll"] == pytest.approx(values["used"])
    assert [look["step"] for look in pictures["curve"]] == [2, 4]
