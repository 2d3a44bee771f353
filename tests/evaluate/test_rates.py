"""The rate of codes, in every unit, against tables that can be summed by hand."""

import math

import pytest
import torch

from latentcomp import Codebook, LatentVariableModel
from latentcomp.batch import Batch
from latentcomp.evaluate.rates import bits_per_dimension, code_rate
from latentcomp.likelihoods import Gaussian
from latentcomp.nn import ImageDecoder, ImageTrunk, PrefixMLP, SiteHead
from latentcomp.posteriors import NearestCode
from latentcomp.priors import Autoregressive, Uniform

N, K, SHAPE = 3, 4, (3, 2, 4)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model = LatentVariableModel(Uniform(N, K), Codebook(K, 2), ImageDecoder(N, 2, (8,), SHAPE), Gaussian())
    return model, NearestCode(torch.nn.Sequential(ImageTrunk(SHAPE, (8,)), SiteHead(8, N, 2)))


def batches(n=10, size=4):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return [Batch(x[rows], index=rows) for rows in torch.arange(n).split(size)]


def test_a_uniform_prior_costs_log_k_a_token(parts):
    rate = code_rate(*parts, batches())
    assert rate.nats.value == pytest.approx(N * math.log(K), abs=1e-6)
    assert rate.nats_per_token.value == pytest.approx(math.log(K), abs=1e-6)
    assert rate.bits_per_token.value == pytest.approx(math.log2(K), abs=1e-6)
    assert rate.bits_per_dimension.value == pytest.approx(N * math.log2(K) / math.prod(SHAPE), abs=1e-6)
    assert rate.nats.stderr == pytest.approx(0, abs=1e-6)
    assert rate.measures()["code_bits_per_token"].unit == "bits per token"


def test_another_prior_costs_what_its_table_says(parts):
    model, posterior = parts
    prior = Autoregressive(PrefixMLP((K,) * N, context=0, width=8))
    rate = code_rate(model, posterior, batches(), prior)
    z = torch.cat([posterior(model, batch.x).mode for batch in batches()])
    table = prior().table().flatten()  # of all K^N codes, the first site turning slowest
    each = -table[(z * torch.tensor([K**2, K, 1])).sum(-1)].detach().double()
    assert rate.nats.value == pytest.approx(float(each.mean()), rel=1e-5)
    assert rate.nats.stderr == pytest.approx(float(each.std() / math.sqrt(len(each))), rel=1e-4)
    given = [batch._replace(x=torch.zeros_like(batch.x), z=posterior(model, batch.x).mode) for batch in batches()]
    assert code_rate(model, posterior, given, prior).nats.value == pytest.approx(rate.nats.value)


def test_bits_of_a_density_are_those_of_the_discrete_pixels():
    """A uniform density over [-1, 1] gives each of 255 equal steps the same probability."""
    assert bits_per_dimension(12 * math.log(2), 12, step=2 / 255) == pytest.approx(math.log2(255))
    assert bits_per_dimension(12 * math.log(256), 12) == pytest.approx(8)
