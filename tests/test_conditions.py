"""Conditions become codes."""

import pytest
import torch
from torch import nn

from latentcomp.conditions import Conditioning, Coordinates, Encoded, LabelMap, Labels, Quantised, Shifted, Small, StartCode, Tokens, coordinate_map
from tests.scenarios import posterior, tiny_images, tiny_model


def test_labels_and_tokens_are_codes():
    assert Labels(3).encode(torch.tensor([0, 2])).tolist() == [[0], [2]]
    assert Tokens(3).encode(torch.tensor([[0, 2]])).tolist() == [[0, 2]]
    assert Labels(3).encode(torch.tensor([], dtype=torch.long)).shape == (0, 1)


@pytest.mark.parametrize(("stage", "what", "shape"), [(Labels(3), "labels", (2,)), (Tokens(3), "condition codes", (1, 2))])
def test_codes_out_of_range_are_refused(stage, what, shape, unchecked):
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(ValueError, match=rf"{what} must lie in 0..2; got values from {wrong[0]} to {wrong[1]}"):
            stage.encode(torch.tensor(wrong).view(shape))
    with pytest.raises(TypeError, match=f"{what} are whole numbers, got torch.float32"):
        stage.encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("stage", "c"),
    [(Labels(3), torch.zeros(2, dtype=torch.long)), (Tokens(3), torch.zeros(2, 1, dtype=torch.long)), (Coordinates(8, 1), torch.zeros(1, 1, 2, 2))],
)
def test_on_a_device_ranges_are_asserted_there_and_not_waited_for(stage, c, monkeypatch):
    """The meta device has no values, so that whatever reads one fails."""
    asserted = []
    monkeypatch.setattr(torch, "_assert_async", lambda inside, message: asserted.append((inside.device.type, message)))
    assert stage.encode(c.to("meta")).is_meta
    ((device, message),) = asserted
    assert device == "meta"
    assert "must lie in" in message


def test_a_start_code_asks_nothing():
    for anything in (torch.zeros(2), torch.zeros(2, 3, 4, 4), torch.zeros(2, 7, dtype=torch.long)):
        assert StartCode(5).encode(anything).tolist() == [[5], [5]]


def test_coordinates_are_averaged_and_rounded():
    ramp = (torch.arange(16.0) / 16).view(1, 1, 4, 4)
    means = ramp.view(2, 2, 2, 2).mean((1, 3)).flatten()
    assert Coordinates(100, 2).encode(ramp).tolist() == [(100 * means).round().long().tolist()]
    assert Coordinates(2, 2).encode(torch.full((1, 1, 2, 2), 0.25)).tolist() == [[0]]  # halves go to even numbers
    assert Coordinates(8, 2).encode(torch.ones(1, 1, 2, 2)).tolist() == [[8]]


def test_coordinates_out_of_range_are_refused(unchecked):
    with pytest.raises(ValueError, match=r"has shape \(B, 1, H, W\), got \(1, 3, 4, 4\)"):
        Coordinates(8, 2).encode(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"condition codes have shape \(B, M\), got \(2,\)"):
        Tokens(3).encode(torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got values from 0 to 1.5"):
        Coordinates(8, 2).encode(torch.tensor([[[[0.0, 1.5], [0.0, 1.0]]]]))
    with pytest.raises(ValueError, match="2 must divide the sides of a coordinate map; got 3 x 4"):
        Coordinates(8, 2).encode(torch.zeros(1, 1, 3, 4))


def test_maps_may_be_shrunk_first():
    c = torch.rand(1, 1, 4, 4)
    assert torch.equal(Conditioning(Coordinates(8, 1), 2)(c), Coordinates(8, 1).encode(c[..., ::2, ::2]))
    assert torch.equal(Conditioning(Coordinates(8, 1))(c), Coordinates(8, 1).encode(c))
    with pytest.raises(TypeError, match=r"needs a method encode\(c\) that gives codes \(B, M\); Identity has none"):
        Conditioning(nn.Identity())


@pytest.mark.parametrize("dtype", [torch.long, torch.int32, torch.uint8])
def test_maps_of_whole_numbers_may_be_shrunk_too_and_stay_whole(dtype, unchecked):
    c = torch.randint(5, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(Conditioning(LabelMap(5, 2), 4)(c), LabelMap(5, 2).encode(c[..., ::4, ::4]))
    with pytest.raises(TypeError, match="classes of a label map are whole numbers"):
        Conditioning(LabelMap(5, 2), 4)(c.float())


def test_a_coordinate_map_counts_pixels_as_the_published_data_do():
    c = coordinate_map(2, 4, 6)
    assert c.shape == (2, 1, 4, 6)
    torch.testing.assert_close(c[1].flatten(), torch.arange(24) / 24)
    assert Coordinates(24, 1).encode(c)[0].tolist() == list(range(24))


def test_images_become_the_codes_of_a_first_stage_of_their_own_and_shifted_codes_stand_behind():
    stage, x = Encoded(tiny_model(), posterior("nearest_code")), tiny_images(5)
    codes = Conditioning(stage)(x)
    assert torch.equal(codes, posterior("nearest_code")(tiny_model(), x).mode)
    assert torch.equal(Conditioning(Shifted(stage, 7))(x), codes + 7)
    assert not any(p.requires_grad for p in stage.parameters())
    with pytest.raises(TypeError, match=r"Identity has none"):
        Shifted(nn.Identity(), 3)


def test_a_label_map_s_codes_are_its_classes_in_the_middle_of_squares(unchecked):
    c = torch.arange(24).view(1, 1, 4, 6)
    assert LabelMap(24, 2).encode(c).tolist() == [[7, 9, 11, 19, 21, 23]]
    assert LabelMap(24, 1).encode(c).tolist() == [list(range(24))]
    with pytest.raises(ValueError, match=r"has shape \(B, 1, H, W\), got \(1, 4, 6\)"):
        LabelMap(24, 2).encode(c[0])
    with pytest.raises(ValueError, match="classes of a label map must lie in 0..22; got values from 0 to 23"):
        LabelMap(23, 2).encode(c)
    with pytest.raises(ValueError, match="4 must divide the sides of a label map; got 4 x 6"):
        LabelMap(24, 4).encode(c)
    with pytest.raises(TypeError, match="classes of a label map are whole numbers, got torch.float32"):
        LabelMap(24, 2).encode(c.float())


def test_an_image_in_little_is_encoded():
    c = torch.rand(2, 1, 4, 8)
    assert torch.equal(Small(Coordinates(9, 1), 2).encode(c), Coordinates(9, 2).encode(c))
    with pytest.raises(ValueError, match="3 must divide the sides of a picture to be made smaller; got 4 x 8"):
        Small(Coordinates(9, 1), 3).encode(c)
    with pytest.raises(TypeError, match="Identity has none"):
        Small(nn.Identity(), 2)


def test_nearest_codes_are_those_of_the_first_stage_and_of_any_size():
    model, q, x = tiny_model(), posterior("nearest_code"), tiny_images(5)
    assert torch.equal(Quantised(q.encoder, model.codebook).encode(x), Encoded(model, q).encode(x))
    down = nn.Sequential(nn.Conv2d(1, model.codebook.width, 2, 2), nn.Flatten(2)).double()
    stage = Quantised(nn.Sequential(down, Turned()), model.codebook)
    large = torch.randn(2, 1, 4, 8, dtype=torch.float64)
    whole = stage.encode(large).view(2, 2, 4)
    assert torch.equal(whole[:, :, :2].flatten(1), stage.encode(large[..., :4]))


class Turned(nn.Module):
    """``(B, D, N)`` to ``(B, N, D)``."""

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Turned."""
        return h.mT
