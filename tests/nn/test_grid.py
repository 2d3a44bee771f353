"""Sites are the cells of a grid, row by row or in an order."""

import pytest
import torch
from torch import nn

from latentcomp.nn.grid import Ordered, OrderedDecoder, SiteDecoder, SiteEncoder
from latentcomp.nn.unet import Decoder, Encoder, Ladder

LADDER = Ladder(32, (1, 1), 1, ())


def test_sites_are_the_cells_of_the_map_row_by_row():
    encoder = SiteEncoder(Encoder(1, 4, LADDER), 4, 3)
    x = torch.randn(2, 1, 4, 6)
    maps = encoder.project(encoder.encoder(x))
    h = encoder(x)
    assert h.shape == (2, 6, 3)
    assert torch.equal(h[:, 4], maps[:, :, 1, 1])  # row 1, column 1 of 2 x 3


def test_the_decoder_inverts_that_arrangement():
    decoder = SiteDecoder(Decoder(4, 1, LADDER), 3, 4, (2, 3))
    maps = torch.randn(2, 3, 2, 3)
    e = maps.flatten(2).mT
    assert torch.equal(decoder(e), decoder.decoder(decoder.project(maps)))
    assert decoder.at(e, (3, 2)).shape == (2, 1, 6, 4)
    other = decoder.of_grid((3, 2))
    assert torch.equal(other(e), decoder.at(e, (3, 2)))
    assert other.project.weight is decoder.project.weight
    assert decoder.grid == (2, 3)
    with pytest.raises(ValueError, match="6 sites do not fill a grid of 2 x 2 = 4"):
        decoder.at(e, (2, 2))


def test_an_order_and_its_inverse():
    order = Ordered(torch.tensor([2, 0, 1]))
    rows = torch.tensor([[10, 11, 12]])
    assert order(rows).tolist() == [[12, 10, 11]]
    assert torch.equal(order.undo(order(rows)), rows)
    decoder = OrderedDecoder(nn.Unflatten(1, (1, 3)), order)  # an "image" of one row
    e = torch.randn(1, 3, 2)
    assert torch.equal(decoder(order(e)).squeeze(1), e)
    with pytest.raises(ValueError, match="one of 3 sites, got sequences of 4"):
        order(torch.zeros(1, 4))


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match="must hold each of 0..2 once"):
        Ordered(torch.tensor(order))
