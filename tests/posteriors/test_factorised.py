"""The mean-field posterior: the head's logits, site by site."""

import pytest
import torch

from latentcomp.nn.mlp import SiteHead
from latentcomp.posteriors.factorised import Factorised
from latentcomp.priors import Uniform
from tests.scenarios import FEATURES, posterior, tiny_images, tiny_model, trunk


def test_sites_are_independent_categoricals_of_the_heads_logits():
    q, x = posterior("factorised"), tiny_images(4)
    p = q.head(q.trunk(x)).softmax(-1)
    expected = torch.einsum("bi,bj->bij", p[:, 0], p[:, 1]).flatten(1)
    torch.testing.assert_close(q(tiny_model(), x).table().exp(), expected)
    assert torch.equal(q(tiny_model(), x).context, q.trunk(x))


def test_codes_that_a_site_does_not_have_get_no_probability():
    model, x = tiny_model(), tiny_images(4)
    model.prior = Uniform(2, (2, 3)).double()
    q = posterior("factorised")(model, x)
    assert q.log_prob(torch.tensor([[2, 0]] * 4)).eq(-torch.inf).all()
    torch.testing.assert_close(q.table().exp().sum(-1), torch.ones(4, dtype=torch.float64))


def test_a_head_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"logits of the codes of shape \(B, 2, 3\).*got \(4, 2, 5\)"):
        Factorised(trunk(), SiteHead(FEATURES, 2, 5)).double()(tiny_model(), tiny_images())
