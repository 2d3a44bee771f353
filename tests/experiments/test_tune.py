"""Tuning: one grid for all rows that are compared, made once, chosen by validation data, and what was chosen stands in the rows."""

import json

import pytest
from omegaconf import OmegaConf

from experiments import settings, tried, tune
from experiments.execute import plain

TUNED = [table for table in settings.tables() if "tuning" in settings.table(table)]
STANDS_AS_TUNED = [table for table in TUNED if tune.trials_file(table).exists()]


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Trials go to a folder of the test, one after the other."""
    monkeypatch.setattr(tune, "FOLDER", tmp_path)
    monkeypatch.setattr(tried.pool, "side_by_side", lambda function, jobs, *_: enumerate([function(*job) for job in jobs]))
    return tmp_path


@pytest.mark.parametrize("name", TUNED)
def test_the_seed_is_none_that_the_table_reports_and_the_grid_is_small(name):
    spec = settings.table(name)
    budgets = [OmegaConf.load(path) for path in (settings.CONF / "budget" / spec["budgets"]).glob("*.yaml")]
    assert all(spec["tuning"]["seed"] >= budget.get("seeds", 0) for budget in budgets)
    assert 2 <= len(tune.grid(spec)) <= 9
    assert set(tune.rows(spec)) <= set(spec["rows"])


@pytest.mark.parametrize("name", STANDS_AS_TUNED)
def test_each_row_stands_at_the_best_of_its_trials(name):
    spec, trials = settings.table(name), tried.stored(tune.trials_file(name))
    for row in tune.rows(spec):
        assert sum(trial["row"] == row for trial in trials) == len(tune.grid(spec))
        stands = settings.row(name, row, "cpu", spec["tuning"]["seed"])
        tuned = settings.row(name, row, "cpu", spec["tuning"]["seed"], tune.best(spec, trials, row)["setting"])
        assert plain(stands) == plain(tuned), f"{row} does not stand at {tune.best(spec, trials, row)['setting']}"


def keys(row, settings_of):
    configs = [settings.row("digits", row, "cpu", 100, setting) for setting in settings_of]
    return {tried.Wanted(row, "", config, ()).key for config in configs}


def test_a_setting_that_came_later_and_changes_nothing_has_nothing_tried_again():
    trials = {(trial["row"], trial["config"]) for trial in tried.stored(tune.trials_file("digits"))}
    assert keys("exact_em", tune.grid(settings.table("digits"))[:2]) <= trials


@pytest.mark.slow
@pytest.mark.parametrize("row", settings.table("digits")["rows"][:-2])
def test_all_trials_of_the_digits_are_found_again(row):
    """But those of the two VQ rows, whose restart is counted in another unit since."""
    trials = {(trial["row"], trial["config"]) for trial in tried.stored(tune.trials_file("digits")) if trial["row"] == row}
    assert keys(row, tune.grid(settings.table("digits"))) == trials


@pytest.mark.parametrize("override", ["average=0.9", "rates.phi=2", "batches=7", "schedule={phi: {_target_: experiments.descent.Drop, at: 0.5, factor: 0.25}}"])
def test_a_setting_that_came_later_and_changes_something_is_another_trial(override):
    assert keys("exact_em", [()]).isdisjoint(keys("exact_em", [(override,)]))


@pytest.mark.slow
def test_both_kinds_of_prior_are_tried_with_the_same_settings_once(alone, capsys):
    """At the smoke size, as the command does it: the numbers are those of the rows' own runs."""
    tune.main(["taming_pixelsnail", "budget=smoke", "budget.first.updates=1"])
    path = alone / "taming_pixelsnail-smoke.json"
    trials = json.loads(path.read_text())
    settings_of = {row: [trial["setting"] for trial in trials if trial["row"] == row] for row in ("imagenet_steps", "imagenet_pixelsnail")}
    assert settings_of["imagenet_steps"] == settings_of["imagenet_pixelsnail"] == [["pace=0.3"], ["pace=1.0"], ["pace=3.0"], ["pace=10.0"]]
    assert len({trial["val_nats_per_code"] for trial in trials}) == 8
    printed = capsys.readouterr().out.splitlines()
    for row, line in zip(settings_of, printed, strict=True):
        least = min((trial for trial in trials if trial["row"] == row), key=lambda trial: trial["val_nats_per_code"])
        assert line.split()[:2] == [row, *least["setting"]]
    one = settings.row("taming_pixelsnail", "imagenet_pixelsnail", "smoke", 100, ("budget.first.updates=1", "pace=3.0"))
    assert one.optimizer.lr == pytest.approx(3 * one.budget.lr)
    before = path.read_bytes()
    tune.main(["taming_pixelsnail", "budget=smoke", "budget.first.updates=1"])
    assert path.read_bytes() == before, "nothing was made again"


def made(*job):
    """A trial whose number is that of its setting; one diverges."""
    (setting,) = job[-1]
    return {"setting": [setting], "seconds": 1.0, "val_l1": float(setting.partition("=")[2])}


def test_what_is_not_wanted_any_more_is_dropped_and_what_failed_is_tried_again(alone, monkeypatch, capsys):
    monkeypatch.setattr(tune, "trial", made)
    monkeypatch.setattr(tune, "rows", lambda spec: ["residual"])

    def diverging(function, jobs, *_):
        return enumerate([FloatingPointError("nan") if "pace=3.0" in job[-1] else function(*job) for job in jobs])

    steady = tried.pool.side_by_side
    monkeypatch.setattr(tried.pool, "side_by_side", diverging)
    (alone / "taming_geometries.json").write_text(json.dumps([{"row": "residual", "config": "of before", "setting": ["pace=9.0"], "val_l1": 0.0}]))
    first = tune.tune("taming_geometries")
    assert [(trial["row"], trial["val_l1"]) for trial in first] == [("residual", 0.3), ("residual", 1.0), ("residual", 10.0)]
    assert "residual, pace=3.0 failed: nan" in capsys.readouterr().out
    monkeypatch.setattr(tried.pool, "side_by_side", steady)
    again = tune.tune("taming_geometries")
    assert len(again) == 4
    assert tune.best(settings.table("taming_geometries"), again, "residual")["setting"] == ["pace=0.3"]
    assert {trial["seed"] for trial in again} == {100}


def test_a_table_without_a_grid_and_an_unknown_budget_are_refused():
    with pytest.raises(settings.UnknownName, match=r"no table with a grid to tune 'mnist'.*Known: digits, taming_geometries, taming_pixelsnail"):
        tune.tune("mnist")
    with pytest.raises(settings.UnknownName, match=r"no budget 'cpus'.*Did you mean cpu"):
        tune.tune("digits", "cpus")
    with pytest.raises(SystemExit, match="Tables: digits"):
        tune.main([])
