"""The sequential posterior: the policy reads the trunk's features."""

import pytest
import torch
from torch import nn

from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.posteriors.autoregressive import Autoregressive
from tests.scenarios import FEATURES, posterior, tiny_images, tiny_model, trunk


@pytest.mark.parametrize("kind", ["prefix_mlp", "transformer"])
def test_conditionals_are_the_policys_logits_given_the_features(kind):
    q, x = posterior(kind), tiny_images(4)
    z = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]])
    expected = q.policy(z, q.trunk(x)).log_softmax(-1).gather(-1, z.unsqueeze(-1)).sum((-2, -1))
    torch.testing.assert_close(q(tiny_model(), x).log_prob(z), expected)
    assert torch.equal(q(tiny_model(), x).context, q.trunk(x))


def test_features_of_any_shape_are_flattened():
    q = Autoregressive(nn.Conv2d(1, 2, 1), PrefixMLP((3, 3), 12, 8)).double()
    assert q(tiny_model(), tiny_images(4)).context.shape == (4, 12)


@pytest.mark.parametrize("cardinalities", [(3, 3, 3), (3, 4)])
def test_a_policy_for_other_sites_than_the_models_is_refused(cardinalities):
    with pytest.raises(ValueError, match=r"was built for sites of cardinalities \(3, .*, the model has \(3, 3\)"):
        Autoregressive(trunk(), PrefixMLP(cardinalities, FEATURES, 8))(tiny_model(), tiny_images())
