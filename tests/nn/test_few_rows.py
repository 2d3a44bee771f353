"""The product for a few rows is the layer, whatever the number of rows and their strides."""

import pytest
import torch
from torch import nn

from latentcomp.nn.few_rows import ENTRIES, ROWS, linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 2, ROWS, ROWS + 1])
@pytest.mark.parametrize("width", [6, ENTRIES // ROWS, ENTRIES])
def test_it_is_the_layer(rows, width, bias):
    torch.manual_seed(0)
    layer = nn.Linear(width, 7, bias).double()
    for x in (torch.randn(rows, width, dtype=torch.float64), torch.randn(width, rows, dtype=torch.float64).t()):
        torch.testing.assert_close(linear(layer)(x), layer(x), rtol=0, atol=1e-12)


def test_a_layer_that_is_not_what_its_weights_say_is_called_itself():
    class Twice(nn.Linear):
        """What its weights say, twice."""

        def forward(self, x):
            return 2 * super().forward(x)

    x, layer = torch.randn(4, 6), Twice(6, 3)
    assert torch.equal(linear(layer)(x), layer(x))


def test_weights_that_are_learned_on_are_seen():
    layer, x = nn.Linear(6, 3), torch.randn(4, 6)
    product = linear(layer)
    with torch.no_grad():
        layer.weight.neg_()
        torch.testing.assert_close(product(x), layer(x))


def test_gradients_pass():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 3).double(), torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64)
    one = torch.autograd.grad((linear(layer)(x) * weight).sum(), (x, *layer.parameters()))
    other = torch.autograd.grad((layer(x) * weight).sum(), (x, *layer.parameters()))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
