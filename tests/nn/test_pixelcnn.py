"""The published PixelCNN: its masks against sums over neighbours by hand, what each site sees, and the same one site at a time."""

import pytest
import torch
from torch.nn.functional import one_hot

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.pixelcnn import MaskedConv2d, PixelCNN
from tests.codes.families import stirred

K = 3
Z = torch.randint(K, (5, 16), generator=torch.Generator().manual_seed(0))
ABOVE = [(-1, -1), (-1, 0), (-1, 1), (0, -1)]  # (row, column) of the neighbours of a 3x3 kernel that come before a site in raster order


def network(layers: int = 7) -> PixelCNN:
    """The published depth on its 4 x 4 grid, in float64."""
    return stirred(lambda: PixelCNN((K,) * 16, 4, layers)).eval()


@torch.no_grad()
def by_hand(conv: MaskedConv2d, x: torch.Tensor, centre: bool) -> torch.Tensor:
    """Type A sums over the four neighbours before a site, type B over the site, too; outside of the grid there is nothing."""
    out = x.new_zeros(len(x), conv.out_channels, 4, 4)
    for row in range(4):
        for column in range(4):
            for down, right in ABOVE + [(0, 0)] * centre:
                if row + down >= 0 and 0 <= column + right < 4:
                    out[:, :, row, column] += x[:, :, row + down, column + right] @ conv.weight[:, :, 1 + down, 1 + right].T
    return out


@torch.no_grad()
def test_the_stack_is_one_layer_a_and_seven_layers_b_without_biases():
    made = network()
    x = one_hot(Z, K).double().view(5, 4, 4, K).permute(0, 3, 1, 2)
    convolutions = [layer for layer in made.layers if isinstance(layer, MaskedConv2d)]
    assert len(convolutions) == 8
    for depth, conv in enumerate(convolutions):
        x = by_hand(conv, x, centre=depth > 0).relu()
    last = made.layers[-1]
    logits = torch.einsum("bchw,kc->bhwk", x, last.weight[:, :, 0, 0]) + last.bias
    torch.testing.assert_close(made(Z), logits.flatten(1, 2), rtol=0, atol=1e-10)


def test_each_site_sees_what_is_before_it_but_for_the_blind_spot():
    """With positive weights no path is closed, and the gradient is nought only where none leads: a row up lets a path go one column to the right, no more."""
    made = network()
    for parameter in made.parameters():
        parameter.data.abs_()
    x = torch.ones(1, K, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = made.layers(x)
    for row in range(4):
        for column in range(4):
            (gradient,) = torch.autograd.grad(logits[0, :, row, column].sum(), x, retain_graph=True)
            seen = gradient[0].sum(0) > 0
            for r in range(4):
                for c in range(4):
                    assert bool(seen[r, c]) == ((r == row and c < column) or (r < row and c <= column + row - r)), f"{(row, column)} and {(r, c)}"


@torch.no_grad()
def test_one_site_at_a_time_is_all_at_once():
    made = network(2)
    cache = made.start(5)
    steps = []
    for site in range(16):
        if site == 9:
            cache.select(torch.arange(5))
        steps.append(made.advance(cache, site, Z[:, site - 1] if site else None))
    torch.testing.assert_close(torch.stack(steps, 1), made(Z), rtol=0, atol=1e-10)


@torch.no_grad()
def test_as_a_distribution_it_sums_to_one():
    made = stirred(lambda: PixelCNN((K,) * 4, 4, 2, 3, (2, 2))).eval()
    assert float(AutoregressiveCodes(made).table().exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("cardinalities", [(3,) * 15, (3,) * 15 + (2,)])
def test_what_does_not_fill_the_grid_is_refused(cardinalities):
    with pytest.raises(ValueError, match="a PixelCNN wants the same K at all 16 sites of its 4x4 grid"):
        PixelCNN(cardinalities)


def test_features_are_refused_with_the_remedy():
    with pytest.raises(TypeError, match="use PrefixMLP or CausalTransformer"):
        network(1).features(Z)
