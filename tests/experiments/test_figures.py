import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from experiments import figures
from latentcomp.evaluate.usage import usage
from tests.experiments import synthetic

ROWS = ("exact_em", "gflownet_em", "vq_ema")
SPEC = synthetic.spec() | {"rows": list(ROWS)}
RECORDS = synthetic.records(ROWS, seeds=2)
RUNS = {row: {seed: synthetic.pictures(row, seed) for seed in range(2)} for row in ROWS}
OF_RUNS = {"curves": "svg", "usage": "svg", "posteriors": "svg", "reconstructions": "png", "samples": "png"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures come back as matplotlib's, to be looked into."""
    monkeypatch.setattr(figures, "_bytes", lambda figure, form: figure)


def draw(name: str, runs=RUNS, spec=SPEC):
    return getattr(figures, name)(runs, spec)


def readable(data: bytes, form: str) -> bool:
    return data.startswith(b"\x89PNG") if form == "png" else ElementTree.fromstring(data).tag.endswith("svg")


@pytest.mark.parametrize(("name", "form"), OF_RUNS.items())
def test_pictures_are_files_made_alike_each_time(name: str, form: str) -> None:
    before, runs = dict(matplotlib.rcParams), {"vq_ema": RUNS["vq_ema"]}
    data = draw(name, runs)
    assert readable(data, form)
    assert draw(name, runs) == data
    assert dict(matplotlib.rcParams) == before


def test_the_summary_is_a_file() -> None:
    assert readable(figures.summary(RECORDS, SPEC), "svg")


@pytest.mark.usefixtures("drawn")
def test_the_summary_is_ordered_and_shows_paired_differences() -> None:
    figure: Figure = figures.summary(RECORDS, SPEC)  # type: ignore[assignment]
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == ["Exact EM", "GFlowNet-EM", "VQ, EMA"]
    differences = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "o"]
    a, b = ([r["value"] for r in RECORDS if (r["row"], r["metric"]) == (row, "exact_nll")] for row in ("exact_em", "gflownet_em"))
    assert len(differences) == 2
    assert differences[0] == pytest.approx(np.mean(a) - np.mean(b))


@pytest.mark.usefixtures("drawn")
def test_the_summary_without_reference_or_finite_values() -> None:
    assert len(figures.summary(RECORDS, SPEC | {"reference": None}).axes) == 1  # type: ignore[attr-defined]
    figures.summary([record | {"value": None} for record in RECORDS], SPEC)


def test_a_row_has_one_colour_of_its_own() -> None:
    colours = [figures.colour(synthetic.spec(), row) for row in synthetic.ROWS]
    assert len(set(colours)) == len(synthetic.ROWS)
    assert figures.colour(synthetic.spec(), "vq_ema") == colours[-1]


@pytest.mark.usefixtures("drawn")
def test_the_frame_of_the_curves_holds_every_best_state() -> None:
    for axes in draw("curves").axes:
        if axes.lines:
            low, high = axes.get_ylim()
            assert all(low < min(look["val_nll"] for look in run["curve"]) < high for by_seed in RUNS.values() for run in by_seed.values())


@pytest.mark.usefixtures("drawn")
def test_a_curve_may_hold_an_infinite_look() -> None:
    broken = synthetic.pictures("vq_ema", 0)
    broken["curve"] = [broken["curve"][0] | {"val_nll": float("inf")}, *broken["curve"][1:]]
    assert np.isfinite(draw("curves", {"vq_ema": {0: broken}}).axes[0].get_ylim()).all()


@pytest.mark.usefixtures("drawn")
def test_usage_bars_are_shares_and_the_title_gives_the_perplexity() -> None:
    for axes, row in zip(draw("usage").axes, ROWS, strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)
        counts = RUNS[row][0]["usage"]
        codes = torch.cat([torch.arange(synthetic.K).repeat_interleave(counts[site])[:500, None] for site in range(synthetic.N)], 1)
        counts = usage(codes, synthetic.K).counts
        again = draw("usage", {row: {0: RUNS[row][0] | {"usage": counts}}}).axes[0]
        assert f"perplexity {usage(codes, synthetic.K).perplexity:.1f} of {synthetic.K}" in again.get_title(loc="left")


@pytest.mark.usefixtures("drawn")
def test_posterior_bars_are_distributions_of_the_row_s_own_model() -> None:
    figure = draw("posteriors")
    panels = figure.axes[4:]
    assert len(panels) == 4 * len(ROWS)
    for place, axes in enumerate(panels):
        part, digit = RUNS[ROWS[place // 4]][0]["posterior"], place % 4
        heights = [bar.get_height() for bar in axes.patches]
        assert heights[:10] == pytest.approx(part["p"][digit].tolist())
        assert heights[11:21] == pytest.approx(part["q"][digit].tolist())
        assert sum(heights[:11]) == pytest.approx(1)
        assert sum(heights[11:]) == pytest.approx(1)


@pytest.mark.usefixtures("drawn")
def test_rows_that_cannot_be_enumerated_have_no_posterior() -> None:
    without = {row: {seed: {k: v for k, v in run.items() if k != "posterior"} for seed, run in by_seed.items()} for row, by_seed in RUNS.items()}
    assert draw("posteriors", without) is None
    assert len(draw("posteriors", without | {"vq_ema": RUNS["vq_ema"]}).axes) == 8


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_may_have_other_shapes_and_channels(channels: int) -> None:
    run = RUNS["vq_ema"][0] | {"images": torch.rand(8, channels, 12, 10), "reconstructions": torch.randn(8, channels, 12, 10)}
    assert readable(draw("reconstructions", {"vq_ema": {0: run}}), "png")


@pytest.mark.usefixtures("drawn")
def test_test_images_are_shown_once_where_all_rows_have_the_same() -> None:
    assert len(draw("reconstructions").axes) == 1 + len(ROWS)


def test_large_codebooks_and_many_sites() -> None:
    run = RUNS["vq_ema"][0] | {"usage": torch.randint(0, 5, (64, 512))}
    data = draw("usage", {"vq_ema": {0: run}})
    assert readable(data, "svg")
    assert len(data) < 1_000_000
