"""Trials: each composes, one is made once, and counts by its last look."""

import json

import pytest

from experiments import settings, trials, tried
from latentcomp.evaluate.training import Training
from tests import small_mnist

SMALL = ("budget.updates=4", "budget.validation=20", "budget.test=4", "budget.look_images=4", "budget.size=20", "channels=8")


@pytest.mark.parametrize("name", [path.stem for path in trials.FOLDER.glob("*.yaml")])
def test_the_seed_is_none_that_the_table_reports(name):
    spec = trials.specification(name)
    assert all(spec["seed"] >= settings.row(name, row, budget, 0).budget.seeds for row in spec["trials"] for budget in settings.budgets(settings.table(name)))
    assert spec["trials"].keys() <= set(settings.table(name)["rows"])


def test_every_trial_composes_and_none_is_another_under_a_new_name():
    made = trials.configured("mnist")
    assert len({one.key for one in made}) == len(made)
    assert {one.row for one in made if one.words == "as it stands"} == {one.row for one in made}


def test_a_trial_is_made_once_and_counts_by_its_last_look(tmp_path, monkeypatch, capsys):
    (tmp_path / "mnist.yaml").write_text("seed: 3\noverrides: [budget.every=1]\ntrials: {vq_ema: {as it stands: [], faster: [optimizer.lr=0.01]}}\n")
    monkeypatch.setattr(trials, "FOLDER", tmp_path)
    monkeypatch.setattr(tried.pool, "side_by_side", lambda function, jobs, *_: enumerate([function(*job) for job in jobs]))
    given, made, train = (*SMALL, f"data.root={small_mnist.write(tmp_path)}"), [], trials.Job.trained
    monkeypatch.setattr(trials.Job, "trained", lambda *arguments: made.append(train(*arguments)) or made[-1])
    trials.main(["mnist", *given])
    first = json.loads((tmp_path / "mnist.json").read_text())
    assert all(isinstance(training, Training) for training in made)
    assert {trial["val_nll"] for trial in first} == {round(training.curve[-1]["val_nll"], 2) for training in made}
    assert [len(trial["curve"]) for trial in first] == [2, 2]
    assert first == sorted(first, key=lambda trial: trial["val_nll"])
    assert "nats  faster" in capsys.readouterr().out
    trials.main(["mnist", *given])
    assert len(made) == 2  # nothing was made again
    assert json.loads((tmp_path / "mnist.json").read_text()) == first


def test_a_table_without_trials_is_refused_with_those_that_have_some():
    with pytest.raises(settings.UnknownName, match=r"there is no table with trials 'digits'.*Known: mnist"):
        trials.run("digits")
