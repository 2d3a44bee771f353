"""VQGAN's encoder and decoder: sizes, formats and parameter counts. That they compute the published function is tested in tests/taming."""

import pytest
import torch
from torch import nn

from latentcomp.nn.unet import Attention, Decoder, Encoder, Ladder, Norm

SMALL = Ladder(32, (1, 2, 2), 1, (1,))


def parameters(network: nn.Module) -> int:
    """How many."""
    return sum(p.numel() for p in network.parameters())


def networks(ladder: Ladder = SMALL) -> tuple[Encoder, Decoder]:
    """Both halves, for one channel and four features."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(1, 4, ladder).eval(), Decoder(4, 1, ladder).eval()


@pytest.mark.parametrize(
    ("ladder", "counts"),
    [
        (Ladder(), (29_298_176, 42_449_795)),
        (Ladder(128, (1, 1, 2, 4), 2, Ladder.levels_at(256, (32,), 4)), (26_345_728, 38_316_163)),
    ],
    ids=["f16", "f8"],
)
def test_the_published_sizes(ladder, counts):
    with torch.device("meta"):
        assert (parameters(Encoder(3, 256, ladder)), parameters(Decoder(256, 3, ladder))) == counts


def test_attention_stands_at_the_levels_of_the_sides_that_were_asked_for():
    assert Ladder.levels_at(256, (16, 64), 5) == (2, 4)
    assert Ladder.levels_at(256, (7,), 5) == ()
    encoder, decoder = networks()
    for half in (encoder, decoder):
        assert [any(isinstance(a, Attention) for a in level.attention) for level in half.levels] == [False, True, False]


@pytest.mark.parametrize("level", [-1, 2, 5])
def test_attention_at_a_level_that_does_not_exist_is_refused(level):
    with pytest.raises(ValueError, match=rf"attention at level {level}, but 2 multipliers make the levels 0..1: name one of these, or pass attention=\(\)"):
        Ladder(32, (1, 2), 1, (1, level))


def test_a_ladder_without_levels_is_refused():
    with pytest.raises(ValueError, match=r"a ladder has at least one level, got multipliers=\(\): pass \(1,\) for one that halves nothing"):
        Ladder(32, (), 1, ())


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 20), (4, 4)])
@pytest.mark.parametrize("ladder", [SMALL, Ladder(32, (1, 2, 2), 1, (), 0.0, False), Ladder(32, (2,), 1, ())], ids=["convolved", "averaged", "one level"])
def test_maps_are_smaller_by_the_stride_at_any_size(ladder, height, width):
    encoder, decoder = networks(ladder)
    maps = encoder(torch.randn(2, 1, height, width))
    assert maps.shape == (2, 4, height // ladder.stride, width // ladder.stride)
    assert decoder(maps).shape == (2, 1, height, width)


def test_sizes_that_do_not_divide_are_refused(unchecked):
    encoder, _ = networks()
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), got \(1, 16, 16\)"):
        encoder(torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match=r"halves images 2 times, so 4 must divide .* got 18 x 7: crop or resize them, e.g. to 16 x 4"):
        encoder(torch.zeros(1, 1, 18, 7))
    with pytest.raises(ValueError, match=r"4 must divide .* got 2 x 3: crop or resize them, e.g. to 4 x 4"):
        encoder(torch.zeros(1, 1, 2, 3))  # smaller than the stride
    with pytest.raises(ValueError, match="images of 1 channel"):
        encoder(torch.zeros(1, 3, 16, 16))


def test_the_groups_must_share_the_channels():
    with pytest.raises(ValueError, match="32 must divide the number of channels; got 48"):
        Norm(48)
    with pytest.raises(ValueError, match="have 25 groups, so 25 must divide the number of channels; got 102"):
        Norm(102, 4)
    with pytest.raises(ValueError, match="at least one channel, got group=0: pass 1 for the published 32 groups"):
        Norm(32, 0)


def test_groups_have_as_many_channels_as_are_asked_for_and_are_at_most_thirty_two():
    assert [Norm(channels, 4).num_groups for channels in (4, 32, 64, 128, 256)] == [1, 8, 16, 32, 32]
    assert {norm.num_groups for half in networks(Ladder(32, (1, 2), 1, (1,), group=4)) for norm in half.modules() if isinstance(norm, Norm)} == {8, 16}
    assert {norm.num_groups for half in networks() for norm in half.modules() if isinstance(norm, Norm)} == {32}


def test_channels_last_gives_the_same_numbers():
    encoder, decoder = networks()
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = decoder(encoder(x))
        encoder, decoder = (network.to(memory_format=torch.channels_last) for network in (encoder, decoder))
        maps = encoder(x.contiguous(memory_format=torch.channels_last))
        assert maps.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(decoder(maps), expected, rtol=1e-4, atol=1e-5)


def test_the_norm_is_as_precise_in_channels_last():
    """torch's own kernel is wrong by some 3e-5 here."""
    x = 3 + torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = Norm(64).double()(x.double())
    assert (Norm(64)(x.contiguous(memory_format=torch.channels_last)) - exact).abs().max() < 2e-6


@pytest.mark.parametrize("ladder", [Ladder(32, (1, 2), 1, (1,)), Ladder(32, (1, 1), 1, ()), SMALL], ids=["wider", "narrow", "three levels"])
def test_an_image_of_one_code_is_encoded_alone_as_among_others(ladder):
    """Groups of one channel hold one number then, which is its own mean: torch refuses one row of them, and takes two."""
    encoder, decoder = networks(ladder)
    x = torch.randn(2, 1, ladder.stride, ladder.stride, generator=torch.Generator().manual_seed(0))
    maps = encoder(x)
    assert maps.shape == (2, 4, 1, 1)
    torch.testing.assert_close(encoder(x[:1]), maps[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoder(maps[:1]), decoder(maps)[:1], rtol=1e-4, atol=1e-4)


def test_of_a_group_of_one_number_the_norm_leaves_the_bias():
    norm, x = Norm(32).double(), torch.randn(1, 32, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm.bias.data = torch.arange(32.0, dtype=torch.float64)
    torch.testing.assert_close(norm(x).flatten(), norm.bias)
    assert torch.autograd.gradcheck(norm, x.requires_grad_())


def test_gradients_are_those_of_finite_differences():
    encoder, decoder = (network.double() for network in networks(Ladder(32, (1, 1), 1, (1,))))
    x = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decoder(encoder(x)), x)


def test_dropout_acts_in_training_alone():
    encoder, _ = networks(Ladder(32, (1, 2), 1, (1,), 0.5))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder(x), encoder(x))
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))
