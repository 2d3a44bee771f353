"""Soft vector quantisation against its formula and its limit."""

import pytest
import torch

from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.softmax_distance import SoftmaxDistance
from tests.scenarios import posterior, tiny_images, tiny_model


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_probabilities_fall_with_the_squared_distance(scale):
    model, x = tiny_model(), tiny_images(4)
    encoder = posterior("softmax_distance").encoder
    q, h = SoftmaxDistance(encoder, scale).double()(model, x), encoder(x)
    for b in range(4):
        for site in range(2):
            weights = [torch.exp(-(h[b, site] - model.codebook.weight[k]).square().sum() / (2 * scale**2)) for k in range(3)]
            torch.testing.assert_close(q.log_p[b, site].exp(), torch.stack(weights) / sum(weights), rtol=1e-6, atol=1e-8)


def test_with_a_small_scale_it_is_the_nearest_code():
    model, x, encoder = tiny_model(), tiny_images(20), posterior("softmax_distance").encoder
    sharp, point = SoftmaxDistance(encoder, 1e-3)(model, x), NearestCode(encoder)(model, x)
    torch.testing.assert_close(sharp.table().exp(), point.table().exp())


def test_codebook_scale_and_encoder_learn():
    model, q = tiny_model(), posterior("softmax_distance")
    learned = [model.codebook.weight, *q.parameters()]
    for gradient in torch.autograd.grad(q(model, tiny_images()).table().square().sum(), learned):
        assert gradient.abs().sum() > 0
