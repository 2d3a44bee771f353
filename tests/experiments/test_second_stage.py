"""What the second stage's table measures: codes' likelihoods, and the bound where there is none."""

import torch

from experiments.second_stage import codes_nll
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.priors import Masked, Uniform
from tests.codes.families import stirred


def test_codes_are_scored_in_nats_and_masked_priors_by_their_bound():
    z = torch.randint(3, (5, 2))
    torch.testing.assert_close(codes_nll(Uniform(2, 3), z), torch.full((5,), 2 * torch.tensor(3.0).log().item()))
    prior = Masked(stirred(lambda: MaskedTransformer((3, 3), 8, 1, 2)))
    q = prior()
    orders = torch.stack([q.log_prob_in_order(z, torch.tensor(order)) for order in ([0, 1], [1, 0])]).mean(0)
    estimate = codes_nll(prior, z, draws=2000)
    assert estimate.shape == (5,)
    assert ((estimate + orders).abs() < 0.2).all()  # each term lies within a few nats, so the mean of 2000 does within a tenth
