"""Perceptrons from and to images: shapes, the function itself, and which input reaches which output."""

import torch
from torch import nn

from latentcomp.nn.mlp import MLP, ImageDecoder, ImageTrunk, SiteHead
from tests.scenarios import IMAGE


def test_mlp_is_linear_relu_linear():
    mlp, x = MLP(3, 5, 4, 2), torch.randn(7, 3)
    a, b, c = (layer for layer in mlp if isinstance(layer, nn.Linear))
    hidden = (x @ a.weight.T + a.bias).clamp_min(0)
    hidden = (hidden @ b.weight.T + b.bias).clamp_min(0)
    torch.testing.assert_close(mlp(x), hidden @ c.weight.T + c.bias)
    assert len(mlp) == 5


def test_mlp_of_two_widths_is_linear():
    mlp, x = MLP(3, 2), torch.randn(7, 3)
    torch.testing.assert_close(mlp(x + 1) - mlp(x), mlp(torch.ones(7, 3)) - mlp(torch.zeros(7, 3)))


def test_trunk_gives_features_that_are_not_negative():
    features = ImageTrunk(IMAGE, (8, 5))(torch.randn(50, *IMAGE))
    assert features.shape == (50, 5)
    assert (features >= 0).all()
    assert (features == 0).any()


def test_site_head_gives_every_site_rows_of_its_own():
    head, features = SiteHead(5, 3, 4), torch.randn(7, 5)
    out = head(features)
    assert out.shape == (7, 3, 4)
    torch.testing.assert_close(out[2, 1], head.linear.weight[4:8] @ features[2] + head.linear.bias[4:8])


def test_decoder_gives_images_to_which_every_site_contributes():
    decoder, e = ImageDecoder(3, 2, (16,), IMAGE), torch.randn(4, 3, 2, requires_grad=True)
    assert decoder(e).shape == (4, *IMAGE)
    (gradient,) = torch.autograd.grad(decoder(e)[0].sum(), e)
    assert gradient[0].abs().sum(-1).gt(0).all()
    assert gradient[1:].eq(0).all()
