"""Distances to the exact posterior as measures of a row: against sums over all codes written out, for a likelihood and for an energy."""

import math

import pytest
import torch

from latentcomp import enumeration
from latentcomp.data.split import Split
from latentcomp.evaluate.enumerated import PosteriorMeasures
from latentcomp.evaluate.exact import exact
from latentcomp.learners.learner import Learner
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model
from tests.test_energies import by_hand, energy_model

X = tiny_images(5)
DATA = Split(X[:1], X[:1], X)


class Owner(Learner):
    """Nothing but a posterior."""

    def losses(self, model, batch):
        """None."""
        yield from ()


def measured(model, kind, size=2):
    """Values by name, and the posterior's table."""
    learner = Owner(posterior(kind))
    return PosteriorMeasures(size)(model, learner, DATA), learner.posterior(model, X).table()


def written_out(log_joint, log_q):
    """Mean KL both ways, total variation and entropy, from loops."""
    sums = {"kl_q_p": 0.0, "kl_p_q": 0.0, "tv": 0.0, "posterior_entropy": 0.0}
    for row, q_row in zip(log_joint.tolist(), log_q.tolist(), strict=True):
        total = math.fsum(map(math.exp, row))
        pairs = [(math.exp(a) / total, math.exp(b)) for a, b in zip(row, q_row, strict=True)]
        sums["kl_q_p"] += math.fsum(q * math.log(q / p) for p, q in pairs if q)
        sums["kl_p_q"] += math.fsum(p * math.log(p / q) if q else math.inf for p, q in pairs)
        sums["tv"] += math.fsum(abs(p - q) for p, q in pairs) / 2
        sums["posterior_entropy"] -= math.fsum(p * math.log(p) for p, _ in pairs)
    return {name: value / len(log_joint) for name, value in sums.items()}


@pytest.mark.parametrize("kind", ["prefix_mlp", "factorised", "nearest_code"])
def test_of_a_likelihood_they_are_the_sums_written_out_with_its_own_bound(kind):
    model = tiny_model()
    found, log_q = measured(model, kind)
    for name, value in written_out(brute_force_log_joint(model, X), log_q).items():
        assert (found[name].value == pytest.approx(value)) if math.isfinite(value) else (found[name].value is None and "infinite" in found[name].reason)
    whole = exact(model, posterior(kind), X)
    assert found["exact_nll"].value == pytest.approx(-float(whole.log_px.mean()))
    assert found["own_bound"].value - found["exact_nll"].value == pytest.approx(found["kl_q_p"].value)


def test_of_an_energy_they_are_those_to_the_generalised_posterior_and_nothing_is_called_a_likelihood():
    model = energy_model()
    found, log_q = measured(model, "prefix_mlp")
    with torch.no_grad():
        made = model.decoder(model.codebook(enumeration.all_codes(model.cardinalities)))
    log_joint = torch.tensor([[-by_hand(image, x_hat, 1.0, 1.0) / 0.05 for x_hat in made] for image in X], dtype=torch.float64)  # p(z) is uniform
    for name, value in written_out(log_joint, log_q).items():
        assert found[name].value == pytest.approx(value)
    for name in ("exact_nll", "own_bound"):
        assert found[name].value is None
        assert "no normaliser" in found[name].reason


def test_too_many_codes_are_refused(monkeypatch):
    monkeypatch.setattr(enumeration, "LIMIT", 8)
    with pytest.raises(enumeration.TooManyCodes, match="2 sites with up to 3 codes make 9 code sequences"):
        measured(tiny_model(), "factorised")
