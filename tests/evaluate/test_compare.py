"""compare(): every learner on a fresh model for every seed, one record a number, and a table of them."""

import pytest
import torch

from latentcomp.data.split import Split
from latentcomp.evaluate.compare import Comparison, compare
from latentcomp.evaluate.training import Budget
from latentcomp.learners.em import EM
from latentcomp.learners.straight_through import StraightThrough
from tests.scenarios import posterior, tiny_images, tiny_model

DATA = Split(tiny_images(30, 1), tiny_images(10, 2), tiny_images(10, 3))
BUDGET = Budget(updates=4, size=10, every=2, prior_updates=5)
LEARNERS = {"em": EM, "vq": lambda: StraightThrough(posterior("nearest_code"))}


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Two rows and two seeds; models and learners follow the seed."""
    return compare(lambda: tiny_model(seed=int(torch.randint(100, ()))), LEARNERS, DATA, seeds=2, budget=BUDGET)


def test_one_record_for_each_row_seed_and_metric(comparison):
    keys = [(r["row"], r["seed"], r["metric"]) for r in comparison.records]
    assert len(keys) == len(set(keys))
    metrics = {metric for row, seed, metric in keys}
    assert {"exact_nll", "exact_nll_uniform_prior", "own_bound", "kl_q_p", "kl_p_q", "tv", "perplexity", "decoder_evaluations", "seconds"} <= metrics
    assert set(keys) == {(row, seed, metric) for row in LEARNERS for seed in (0, 1) for metric in metrics}
    assert all(set(r) == {"row", "seed", "metric", "value", "unit", "stderr", "reason"} for r in comparison.records)
    assert len(comparison.values("em", "exact_nll")) == 2
    assert comparison.values("vq", "kl_p_q") == []  # infinite, with a reason


def test_a_seed_is_the_same_start_for_every_row_and_another_one_for_itself(comparison):
    assert comparison.values("em", "exact_nll")[0] != comparison.values("em", "exact_nll")[1]
    again = compare(lambda: tiny_model(seed=int(torch.randint(100, ()))), {"em": EM}, DATA, seeds=2, budget=BUDGET)
    assert again.values("em", "exact_nll") == comparison.values("em", "exact_nll")
    seen = []
    compare(lambda: seen.append(tiny_model(seed=int(torch.randint(100, ())))) or tiny_model(), LEARNERS, DATA, seeds=1, budget=BUDGET._replace(updates=1))
    assert torch.equal(seen[0].codebook.weight, seen[1].codebook.weight)


def test_it_prints_a_table(comparison):
    lines = str(comparison).splitlines()
    assert lines[0].split("|")[1].strip() == "learner"
    assert "exact_nll" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["em", "vq"]
    assert "2 seed(s); a seed turns the initial weights and all noise (training randomness only)" in lines[-1]
    assert "±" in lines[2]
    assert "*" in lines[2] + lines[3]


def test_a_seed_may_also_turn_the_data():
    asked = []
    given = compare(tiny_model, {"em": EM}, lambda seed: asked.append(seed) or DATA, seeds=2, budget=BUDGET)
    assert asked == [0, 1]
    assert "a seed turns the data's fold, the initial weights and all noise" in str(given)


def test_a_learner_instead_of_a_factory_is_refused():
    with pytest.raises(TypeError, match=r"learners\['vq'\] is a learner; every seed needs a fresh one, so pass a function.*lambda: StraightThrough\(...\)"):
        compare(tiny_model, {"vq": StraightThrough(posterior("nearest_code"))}, DATA)
