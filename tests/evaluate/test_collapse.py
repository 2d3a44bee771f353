"""A collapse is warned of when it happens, and nothing else is."""

import math
import warnings

import pytest
import torch

from latentcomp.codes.table import TableCodes
from latentcomp.evaluate.collapse import CollapseWarning, Health, detect_collapse, health
from latentcomp.posteriors.posterior import Posterior
from tests.learners.contract import X
from tests.scenarios import posterior, tiny_model


class Same(Posterior):
    """The same table of nine codes for each image."""

    def __init__(self, p: torch.Tensor) -> None:
        super().__init__()
        self.p = p

    def forward(self, model, x, c=None):
        """The table."""
        return TableCodes(self.p.log().expand(len(x), -1), model.cardinalities)


def test_health_is_that_of_the_distribution():
    p = torch.full((9,), 1 / 9).double()
    now = health(tiny_model(), Same(p), X, samples=300)
    assert now.entropy == pytest.approx(math.log(9))
    assert now.perplexity == pytest.approx(3, rel=0.01)
    assert now.used == 1.0
    sure = torch.tensor([1.0, *[1e-12] * 8]).double()
    collapsed = health(tiny_model(), Same(sure / sure.sum()), X)
    assert collapsed.entropy == pytest.approx(0, abs=1e-9)
    assert (collapsed.perplexity, collapsed.used) == (pytest.approx(1), pytest.approx(1 / 3))
    assert health(tiny_model(), posterior("nearest_code"), X).entropy is None
    assert health(tiny_model(), Same(p), X) == health(tiny_model(), Same(p), X), "the same draws"


def test_a_look_at_the_health_leaves_running_moments_and_modes_alone():
    model, q = tiny_model(), posterior("nearest_code")
    q.encoder = torch.nn.Sequential(torch.nn.BatchNorm2d(1), q.encoder).double().train()
    q.encoder[1].eval()  # a frozen part stays frozen
    before = {key: value.clone() for key, value in q.state_dict().items()}
    health(model, q, X)
    assert all(torch.equal(value, before[key]) for key, value in q.state_dict().items())
    assert q.encoder[0].training
    assert not q.encoder[1].training


def test_a_fall_is_warned_of_once_seen_against_the_best():
    best = detect_collapse(Health(3.0, 0.5, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        best = detect_collapse(Health(8.0, 1.0, 2.0), best)
        best = detect_collapse(Health(4.1, 0.6, 0.02), best)
    assert best == Health(8.0, 1.0, 2.0)
    with pytest.warns(CollapseWarning, match=r"code usage falls: perplexity 3\.9, after 8\.0; 50% of the codes"):
        detect_collapse(Health(3.9, 0.5, 1.0), best)
    with pytest.warns(CollapseWarning, match=r"entropy vanishes: 0\.001 nats, after 2"):
        detect_collapse(Health(7.0, 0.5, 0.001), best)


def test_points_have_no_entropy_to_lose():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert detect_collapse(Health(7.0, 1.0, None), Health(8.0, 1.0, None)) == Health(8.0, 1.0, None)
