"""Vector quantisation against a loop over codes."""

import pytest
import torch
from torch import nn

from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.priors import Uniform
from tests.scenarios import FEATURES, posterior, tiny_images, tiny_model, trunk


def spread() -> NearestCode:
    """An encoder whose outputs spread over the codebook, so that every code is the nearest somewhere."""
    q = posterior("nearest_code")
    for parameter in q.parameters():
        parameter.data.mul_(4)
    return q


@pytest.mark.parametrize("cardinalities", [(3, 3), (3, 2)])
def test_each_site_takes_the_nearest_of_its_codes(cardinalities):
    model, q, x = tiny_model(), spread(), tiny_images(30)
    model.prior = Uniform(2, cardinalities).double()
    distribution, h = q(model, x), q.encoder(x).detach()
    for site, k in enumerate(cardinalities):
        for b in range(30):
            distances = [float((h[b, site] - code).square().sum()) for code in model.codebook.weight.detach()[:k]]
            assert int(distribution.mode[b, site]) == distances.index(min(distances))
    assert len(distribution.mode.unique(dim=0)) > 2
    assert model.prior().log_prob(distribution.mode).isfinite().all()


def test_the_point_mass_carries_h_with_its_gradient():
    q, x = posterior("nearest_code"), tiny_images()
    distribution = q(tiny_model(), x)
    assert torch.equal(distribution.h, q.encoder(x))
    assert distribution.h.requires_grad


def test_an_encoder_without_sites_is_refused():
    with pytest.raises(ValueError, match=r"vectors h in the codebook's space of shape \(B, 2, 2\)"):
        NearestCode(nn.Sequential(trunk(), nn.Linear(FEATURES, 4)).double())(tiny_model(), tiny_images())
