"""How probable codes are: exact where there is a likelihood, a bound that says so where there is none."""

import math

import torch

from latentcomp import Codebook, LatentVariableModel
from latentcomp.batch import Batch
from latentcomp.evaluate.rates import code_rate
from latentcomp.evaluate.scores import BOUND, code_nll, remark
from latentcomp.likelihoods import Gaussian
from latentcomp.nn import ImageDecoder
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.priors import Masked, Uniform
from tests.codes.families import stirred

ROWS = torch.arange(5)


def test_codes_are_scored_in_nats_and_masked_priors_by_their_bound():
    """The bound within 5 standard errors of its mean over both orders, those of draws of another seed: error rate 6e-7 each of five."""
    z = torch.randint(3, (5, 2))
    torch.testing.assert_close(code_nll(Uniform(2, 3)(), z, Noise(0, 0, ROWS)), torch.full((5,), 2 * torch.tensor(3.0).log().item()))
    q = Masked(stirred(lambda: MaskedTransformer((3, 3), 8, 1, 2)))()
    orders = torch.stack([q.log_prob_in_order(z, torch.tensor(order)) for order in ([0, 1], [1, 0])]).mean(0)
    estimate, draws = code_nll(q, z, Noise(0, 0, ROWS), draws=2000), -q.bound(z.expand(2000, 5, 2), Noise(1, 0, ROWS))
    assert estimate.shape == (5,)
    assert ((estimate + orders).abs() < 5 * draws.std(0) / math.sqrt(2000)).all()
    assert (remark(q), remark(Uniform(2, 3)())) == (BOUND, None)


def test_a_masked_prior_s_rate_says_in_every_unit_that_it_is_a_bound():
    prior, z = Masked(stirred(lambda: MaskedTransformer((3, 3), 8, 1, 2)).float()), torch.randint(3, (5, 2))
    model = LatentVariableModel(Uniform(2, 3), Codebook(3, 2), ImageDecoder(2, 2, (8,), (1, 2, 2)), Gaussian())
    batches = [Batch(torch.zeros(len(rows), 1, 2, 2), z=z[rows], index=rows) for rows in ROWS.split(3)]
    rate = code_rate(model, Exact(), batches, prior, seed=7, draws=4)
    assert {measure.reason for measure in rate} == {BOUND}
    wanted = code_nll(prior(), z, Noise(7, 1, ROWS), draws=4)
    torch.testing.assert_close(rate.nats.value, float(wanted.double().mean()))
    assert code_rate(model, Exact(), batches).nats.reason is None
