"""The convolutional backbone of the discrete VAE."""

import pytest
import torch

from latentcomp.nn.convolutional import ConvDecoder


@pytest.mark.parametrize(("width", "grid"), [(1, (4, 4)), (3, (2, 5))])
def test_the_decoder_is_its_layers_one_after_the_other(width, grid):
    """The last is computed as a linear map of pixels: the same image, and the same gradients."""
    torch.manual_seed(0)
    decoder = ConvDecoder(6, width, grid=grid).double()
    e = torch.randn(3, grid[0] * grid[1], width, dtype=torch.float64, requires_grad=True)
    plain = decoder.layers(e.transpose(1, 2).unflatten(-1, grid))
    torch.testing.assert_close(decoder(e), plain)
    weight = torch.randn_like(plain)
    wanted, found = (torch.autograd.grad((image * weight).sum(), [e, *decoder.parameters()]) for image in (plain, decoder(e)))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
