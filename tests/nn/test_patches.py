"""Patches and pixels belong together."""

import pytest
import torch

from latentcomp.nn.patches import PatchDecoder, PatchSites


def test_shapes_at_other_sizes_and_channels():
    x = torch.randn(2, 3, 8, 12)
    h = PatchSites(8, 5, inputs=3)(x)
    assert h.shape == (2, 6, 5)
    assert PatchDecoder(8, 5, outputs=6, grid=(2, 3))(h).shape == (2, 6, 8, 12)


def test_a_pixel_moves_most_the_site_of_its_patch_row_by_row():
    torch.manual_seed(0)
    sites, decoder = PatchSites(8, 5), PatchDecoder(8, 5)
    x = torch.zeros(1, 1, 28, 28, requires_grad=True)
    for row, column in ((1, 5), (4, 2)):
        (gradient,) = torch.autograd.grad(sites(x)[0, 7 * row + column].square().sum(), x)
        rows, columns = gradient[0, 0].abs().sum(1), gradient[0, 0].abs().sum(0)
        assert abs(float((rows * (torch.arange(28) + 0.5)).sum() / rows.sum()) / 4 - row - 0.5) < 1
        assert abs(float((columns * (torch.arange(28) + 0.5)).sum() / columns.sum()) / 4 - column - 0.5) < 1
        e = torch.zeros(1, 49, 5, requires_grad=True)
        (gradient,) = torch.autograd.grad(decoder(e)[0, 0, 4 * row + 2, 4 * column + 2], e)
        assert gradient[0, 7 * row + column].norm() > 0
        assert gradient[0, 7 * 6 * (row < 3) + 6 * (column < 3)].norm() == 0  # the corner far away


def test_images_that_do_not_fall_into_patches_are_refused():
    with pytest.raises(ValueError, match="images of 28 x 30 pixels do not fall into patches of 4 x 4: crop or pad them"):
        PatchSites(8, 5)(torch.zeros(1, 1, 28, 30))
