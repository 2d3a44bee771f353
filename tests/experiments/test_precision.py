"""Training in bf16-mixed reaches what training in float32 reaches, on the rows of the digits and the MNIST tables."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t

from experiments import settings
from experiments.execute import build, execute, plain
from experiments.machine import fabric, on_device
from experiments.pool import side_by_side
from latentcomp.evaluate.run import validation_nll
from latentcomp.evaluate.training import Machine, train
from latentcomp.statistics import interval
from tests import small_mnist

SHARED = os.environ.get("LATENTCOMP_SHARED")
DIGITS = json.loads((Path(__file__).parents[2] / "docs" / "results" / "digits.json").read_text())["records"]
LEVEL = 0.05  # the chance that runs which differ by a margin pass as equivalent


def nll(table: str, row: str, seed: int, precision: str, overrides: tuple[str, ...]) -> float:
    """Of the validation images, in float32, at the best look of a run in the precision, in nats: what training chooses its state by."""
    config = settings.row(table, row, "cpu", seed, (f"precision={precision}", *overrides))
    data, model, learner, descent, budget = build(config)
    made = fabric(config)
    data = on_device(data, made)
    train(model, learner, data, descent, budget, seed, machine=Machine(made))
    return validation_nll(model, learner.posterior, data.validation, budget)


def both(table: str, seeds: int, overrides: tuple[str, ...] = ()) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each row the NLL of every seed in float32 and in bf16-mixed, which differ in nothing else; on all cores."""
    runs = [(row, precision, seed) for row in settings.table(table)["rows"] for precision in ("32-true", "bf16-mixed") for seed in range(seeds)]
    jobs = [(table, row, seed, precision, overrides) for row, precision, seed in runs]
    ended = dict(side_by_side(nll, jobs, [f"{row}, seed {seed}, {precision}" for row, precision, seed in runs], [1] * len(jobs)))
    assert not [error for error in ended.values() if isinstance(error, BaseException)]
    values = {run: ended[number] for number, run in enumerate(runs)}
    return {row: tuple(np.array([values[row, p, s] for s in range(seeds)]) for p in ("32-true", "bf16-mixed")) for row in settings.table(table)["rows"]}


def farthest(differences: np.ndarray) -> np.ndarray:
    """Along the last axis: the largest mean, of either sign, that paired differences are compatible with. Two one-sided t-tests at ``LEVEL`` (Schuirmann, 1987)
    hold them equivalent within any margin above it.
    """
    n = differences.shape[-1]
    return abs(differences.mean(-1)) + t.ppf(1 - LEVEL, n - 1) * differences.std(-1, ddof=1) / math.sqrt(n)


@pytest.mark.parametrize(("difference", "lowest", "highest"), [(0.0, 0.997, 1.0), (1.0, 0.045, 0.055)])
def test_the_rule_by_which_a_row_s_precisions_are_held_equivalent(difference, lowest, highest):
    """Its error rates, simulated: twelve seeds, two runs of one seed as unlike as those of two (so that a difference has twice the variance of a run), and the
    margin of a row, the interval of six seeds from end to end. Without a difference a row passes 998 times in 1000; with one of the whole margin, 50 times.
    """
    margin = 2 * t.ppf(0.975, 5) / math.sqrt(6)  # in standard deviations of a run
    draws = np.random.default_rng(0).normal(difference * margin, math.sqrt(2), (20_000, 12))
    assert lowest <= (farthest(draws) < margin).mean() <= highest


@pytest.mark.slow
def test_mixed_precision_reaches_the_nll_of_float32_on_every_row_of_the_digits():
    """Twelve seeds of each row, the whole training of the table. The unit is the half-width of float32's own 95 % interval over the six seeds of the table.

    All rows together differ by less than one: in bf16-mixed their means lie within float32's intervals. Each by itself differs by less than two, the interval
    from end to end, since the difference of two means varies more than a mean. A row that differs by that much passes with a probability of 5 %; if there is
    no difference, all nine pass with one of 98 % (the test above, nine times).
    """
    pytest.importorskip("lightning_fabric")
    found, units = both("digits", 12), {}
    for row in found:
        table = [r["value"] for r in DIGITS if (r["row"], r["metric"]) == (row, "exact_nll_uniform_prior")]
        assert len(table) == 6
        units[row] = interval(table).half_width
    differences = {row: (mixed - single) / units[row] for row, (single, mixed) in found.items()}
    for row, difference in differences.items():
        single, mixed = (values.mean() for values in found[row])
        print(f"{row}: float32 {single:.3f}, bf16-mixed {mixed:.3f} nats; at most {farthest(difference):.2f} half-widths of {units[row]:.3f} nats apart")
    print(f"all: at most {farthest(np.mean(list(differences.values()), 0)):.2f}")
    assert farthest(np.mean(list(differences.values()), 0)) < 1
    assert {row: farthest(difference) for row, difference in differences.items() if farthest(difference) >= 2} == {}


def in_half_widths(single: np.ndarray, mixed: np.ndarray) -> np.ndarray:
    """Paired differences along the last axis, over the half-width of the 95 % interval that the runs in float32 along it give themselves."""
    n = single.shape[-1]
    return (mixed - single) / (t.ppf(0.975, n - 1) * single.std(-1, ddof=1, keepdims=True) / math.sqrt(n))


@pytest.mark.parametrize(("difference", "lowest", "highest"), [(0.0, 0.96, 1.0), (0.5, 0.0, 0.55), (1.0, 0.0, 0.02)])
def test_the_rule_by_which_rows_of_few_seeds_are_held_equivalent_together(difference, lowest, highest):
    """Its error rates, simulated: thirteen rows of four seeds, two runs of one seed as unlike as those of two, each row's unit its own four runs'."""
    draws = np.random.default_rng(0).normal(size=(2, 20_000, 13, 4))
    draws[1] += difference * t.ppf(0.975, 3) / math.sqrt(4)
    assert lowest <= (farthest(in_half_widths(*draws).mean(1)) < 1).mean() <= highest


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="needs the MNIST files: set LATENTCOMP_SHARED to the folder that holds data/mnist")
def test_mixed_precision_reaches_the_nll_of_float32_on_the_rows_of_mnist():
    """Four seeds of each row of a quarter of the table's network, 800 updates of 32 images. The unit of a row is the half-width of float32's own 95 % interval
    over its four seeds; the rows, of which four seeds say little one by one, differ by less than one unit in the mean. If no row differs, that holds with a
    probability of 97 %; if each differs by half a unit, of 50 %, by a whole one, of 1 % (the test above). That every run has learned something is held, too:
    a unit is no proof where runs stand at their start, where all pixels are even.
    """
    pytest.importorskip("lightning_fabric")
    sizes = ("budget.updates=800", "budget.size=32", "budget.channels=8", "budget.validation=1000", "budget.test=20")
    found = both("mnist", 4, (*sizes, f"data.root={SHARED}/data/mnist"))
    differences = {row: in_half_widths(*runs) for row, runs in found.items()}
    for row, (single, mixed) in found.items():
        print(f"{row}: float32 {interval(single.tolist())}, bf16-mixed {interval(mixed.tolist())} nats; {differences[row].mean():+.2f} half-widths")
    together = np.mean(list(differences.values()), 0)
    print(f"all: {together}, at most {farthest(together):.2f}")
    assert max(single.max() for single, _ in found.values()) < 784 * math.log(2)
    assert farthest(together) < 1


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


def test_a_row_of_convolutions_in_mixed_precision_runs_to_its_end(tmp_path):
    """They look at validation images outside autocast, with weights in float32."""
    pytest.importorskip("lightning_fabric")
    small = (f"data.root={small_mnist.write(tmp_path)}", "budget.validation=20", "budget.test=4", "budget.look_images=4", "budget.dreams=4", "budget.size=20")
    config = settings.row("mnist", "vq_ema", "smoke", 0, (*small, "precision=bf16-mixed", "batches=2", "budget.every=1", "budget.prior_updates=2"))
    records, _ = execute(config, "vq_ema")
    assert math.isfinite(next(record["value"] for record in records if record["metric"] == "iw_nll"))


@pytest.mark.parametrize("launcher", ["joblib", "slurm", "submitit_local"])
def test_launchers_compose(launcher):
    """With hydra's own composition, which knows the plugins that are installed."""
    plugin = {"joblib": "hydra_plugins.hydra_joblib_launcher", "slurm": "hydra_plugins.hydra_submitit_launcher"}
    pytest.importorskip(plugin.get(launcher, plugin["slurm"]))
    config = settings.composed([f"launcher={launcher}", "experiment=digits/vq_ema"])
    assert config.seed == 0
