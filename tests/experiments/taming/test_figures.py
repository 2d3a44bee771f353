"""The figures of these tables show every row that has run, each group in its own panel."""

import numpy as np
import torch

from experiments import settings
from experiments.figures import curves, mean_of
from experiments.taming import figures

PIXELSNAIL, RECONSTRUCTION = settings.table("taming_pixelsnail"), settings.table("taming_reconstruction")


def curve(looks: int, pace: float) -> list[dict[str, float]]:
    return [{"step": 10 * i, "seconds": pace * i, "val_nll": 3 + 1 / i} for i in range(1, looks + 1)]


def priors(rows):
    """Two seeds a row, of which the second made a look more where the row was timed."""
    picture = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {row: {seed: {"curve": curve(3 + seed * row.endswith("time"), 1.0), "best_step": 30, "samples": picture} for seed in (0, 1)} for row in rows}


def test_each_data_set_has_a_panel_over_time():
    few = priors(["drin_steps", "drin_time", "imagenet_time"])
    (over_time, drawn) = figures.timed(few, PIXELSNAIL)
    assert (over_time.title, drawn.title) == ("Over time", "Samples")
    assert over_time.data.startswith(b"<?xml")
    assert drawn.data.startswith(b"\x89PNG")


def test_rows_that_draw_from_one_prior_are_shown_once():
    few = priors(["drin_steps", "drin_time", "imagenet_time"])
    assert list(figures.distinct(few)) == ["drin_steps"]
    few["drin_time"][0]["samples"] = few["drin_steps"][0]["samples"] + 0.1
    assert list(figures.distinct(few)) == ["drin_steps", "drin_time"]


def test_seeds_of_unequal_length_have_a_mean_as_far_as_the_shortest_goes():
    short, long = np.array([[1.0, 2.0], [4.0, 3.0]]), np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]])
    assert mean_of([short, long]).tolist() == [[1.0, 2.0], [3.0, 2.5]]
    assert curves(priors(["drin_steps", "drin_time"]), PIXELSNAIL).startswith(b"<?xml")


def test_every_geometry_has_a_mark_of_its_own():
    assert len(set(figures.MARKS)) == len(figures.MARKS) >= len(RECONSTRUCTION["rows"])
    runs = {row: {0: {"point": torch.tensor([10.0 + i, 2.0 + i])}} for i, row in enumerate(RECONSTRUCTION["rows"])}
    assert figures.use(runs, RECONSTRUCTION).decode().startswith("<?xml")
