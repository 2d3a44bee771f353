"""Bayes' rule against brute force."""

import pytest
import torch
from torch import nn

from latentcomp.enumeration import TooManyCodes, all_codes
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.priors import Autoregressive
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model


@pytest.mark.parametrize("learned_prior", [False, True])
def test_the_posterior_is_the_normalised_joint(learned_prior):
    model, x = tiny_model(learned_prior=learned_prior), tiny_images(4)
    joint = brute_force_log_joint(model, x).exp()
    torch.testing.assert_close(Exact()(model, x).table().exp(), joint / joint.sum(-1, keepdim=True))


def test_it_is_right_for_whatever_the_model_is_at_the_moment():
    model, x, exact = tiny_model(), tiny_images(4), Exact()
    before = exact(model, x).table()
    model.codebook.weight.data.add_(1)
    joint = brute_force_log_joint(model, x).exp()
    torch.testing.assert_close(exact(model, x).table().exp(), joint / joint.sum(-1, keepdim=True))
    assert not torch.allclose(before, exact(model, x).table())


def test_it_has_no_parameters_and_passes_no_gradient():
    assert not list(Exact().parameters())
    assert not Exact()(tiny_model(), tiny_images()).table().requires_grad


def test_the_condition_changes_the_posterior():
    model, x, c = tiny_model(), tiny_images(1).expand(2, -1, -1, -1), torch.tensor([0, 1])
    model.prior = Autoregressive(PrefixMLP((3, 3), 5, 8), nn.Embedding(2, 5)).double()
    codes = all_codes((3, 3))
    joint = torch.stack([model.log_joint(x, z.expand(2, 2), c) for z in codes], 1).exp()
    torch.testing.assert_close(Exact()(model, x, c).table().exp(), joint / joint.sum(-1, keepdim=True))
    assert not torch.allclose(joint[0] / joint[0].sum(), joint[1] / joint[1].sum())


def test_too_many_codes_are_refused(monkeypatch):
    monkeypatch.setattr("latentcomp.enumeration.LIMIT", 8)
    with pytest.raises(TooManyCodes):
        Exact()(tiny_model(), tiny_images())


def test_the_mode_of_the_exact_posterior_is_the_most_probable_code():
    model, x = tiny_model(learned_prior=True), tiny_images(6)
    q = Mode(Exact())(model, x)
    assert torch.equal(q.mode, all_codes((3, 3))[brute_force_log_joint(model, x).argmax(-1)])
    assert q.log_prob(q.mode).eq(0).all()


def test_the_mode_of_an_amortised_posterior_keeps_its_parameters():
    inner, model, x = posterior("factorised"), tiny_model(), tiny_images()
    assert list(Mode(inner).parameters()) == list(inner.parameters())
    assert torch.equal(Mode(inner)(model, x).mode, inner(model, x).mode)
