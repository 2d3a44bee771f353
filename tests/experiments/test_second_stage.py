"""What the second stage's table measures: codes' likelihoods, and the bound where there is none."""

import math

import torch

from experiments.second_stage import codes_nll
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.noise import Noise
from latentcomp.priors import Masked, Uniform
from tests.codes.families import stirred


def test_codes_are_scored_in_nats_and_masked_priors_by_their_bound():
    """The bound within 5 standard errors of its mean over both orders, those of draws of another seed: error rate 6e-7 each of five."""
    z = torch.randint(3, (5, 2))
    torch.testing.assert_close(codes_nll(Uniform(2, 3), z), torch.full((5,), 2 * torch.tensor(3.0).log().item()))
    prior = Masked(stirred(lambda: MaskedTransformer((3, 3), 8, 1, 2)))
    q = prior()
    orders = torch.stack([q.log_prob_in_order(z, torch.tensor(order)) for order in ([0, 1], [1, 0])]).mean(0)
    estimate, draws = codes_nll(prior, z, draws=2000), -q.bound(z.expand(2000, 5, 2), Noise(1, 0, torch.arange(5)))
    assert estimate.shape == (5,)
    assert ((estimate + orders).abs() < 5 * draws.std(0) / math.sqrt(2000)).all()
