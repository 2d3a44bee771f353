"""Training in bf16-mixed reaches what training in float32 reaches, on rows of the digits table."""

import math

import pytest
import torch

from experiments import settings
from experiments.execute import build, execute, plain
from experiments.machine import fabric
from latentcomp.evaluate.run import validation_nll
from latentcomp.evaluate.training import Machine, train
from latentcomp.statistics import interval, paired_interval

ROWS = ("gflownet_em", "wake_sleep", "vq_ema", "gumbel_softmax")


def nll(row: str, seed: int, precision: str) -> float:
    """Of the validation digits, exact and in float32, at the best look of a run in the precision, in nats."""
    config = settings.row("digits", row, "cpu", seed, (f"precision={precision}",))
    data, model, learner, descent, budget = build(config)
    train(model, learner, data, descent, budget, seed, machine=Machine(fabric(config)))
    return validation_nll(model, learner.posterior, data.validation, budget)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("row", ROWS)
def test_mixed_precision_reaches_the_nll_of_float32_within_its_interval(row):
    """Three seeds; the mean in bf16-mixed lies in the 95 % t-interval of float32's, or the paired difference is not distinguishable from zero."""
    pytest.importorskip("lightning_fabric")
    single, mixed = ([nll(row, seed, precision) for seed in range(3)] for precision in ("32-true", "bf16-mixed"))
    own, difference = interval(single), paired_interval(mixed, single)
    print(f"{row}: float32 {own}, bf16-mixed {interval(mixed)}, difference {difference}")
    assert own.low <= interval(mixed).mean <= own.high or difference.low <= 0 <= difference.high
    assert abs(difference.mean) < 0.5, "nats; the rows of the table lie within 1.3 of each other"


def test_another_precision_is_another_configuration():
    usual, mixed = (plain(settings.row("digits", "vq_ema", "smoke", 0, overrides)) for overrides in ((), ("precision=bf16-mixed", "clip=1.0")))
    assert "precision" not in usual
    assert "machine" not in usual
    assert (mixed["precision"], mixed["clip"]) == ("bf16-mixed", 1.0)


def test_a_row_in_float64_runs_to_its_end(tmp_path):
    """Data, looks, the fitted prior and the pictures, all in the precision of the model."""
    pytest.importorskip("lightning_fabric")
    overrides = ("precision=64-true", "log.tensorboard=false", "batches=4", "budget.every=2", "budget.prior_updates=4")
    records, pictures = execute(settings.row("digits", "vq_ema", "smoke", 0, overrides), "vq_ema", folder=tmp_path)
    assert math.isfinite(next(record["value"] for record in records if record["metric"] == "val_nll_fitted_prior"))
    assert pictures["reconstructions"].dtype == torch.float64
    assert (tmp_path / "images" / "step-000000004.png").is_file()


@pytest.mark.parametrize("launcher", ["joblib", "slurm", "submitit_local"])
def test_launchers_compose(launcher):
    """With hydra's own composition, which knows the plugins that are installed."""
    plugin = {"joblib": "hydra_plugins.hydra_joblib_launcher", "slurm": "hydra_plugins.hydra_submitit_launcher"}
    pytest.importorskip(plugin.get(launcher, plugin["slurm"]))
    config = settings.composed([f"launcher={launcher}", "experiment=digits/vq_ema"])
    assert config.seed == 0
