"""A critic and its rules: from when on it counts, what weighs it, what holds it back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latentcomp import objectives
from latentcomp.nn.convolutional import ConvDecoder
from latentcomp.nn.grid import Ordered, OrderedDecoder, SiteDecoder
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.nn.unet import Decoder, Ladder
from latentcomp.phases.critic import AdaptiveWeight, Critic, FixedWeight, LeCAM, Ramp
from tests.scenarios import IMAGE, tiny_images, tiny_model

X = tiny_images(4)


def network() -> nn.Module:
    """Logits of the tiny images."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1)).double()


@pytest.mark.parametrize(("ramp", "shares"), [
    (Ramp(), [1, 1, 1, 1, 1, 1]),
    (Ramp(2), [0, 0, 1, 1, 1, 1]),
    (Ramp(1, 4), [0, 0.25, 0.5, 0.75, 1, 1]),
])  # fmt: skip
def test_a_ramp_rises_from_its_start(ramp, shares):
    assert [ramp(step) for step in range(6)] == shares
    assert [ramp.learns(step) for step in range(6)] == [share > 0 for share in shares]


@given(start=st.integers(0, 50), length=st.integers(0, 50), warmup=st.integers(0, 50))
def test_a_ramp_never_falls_and_the_critic_learns_whenever_it_counts(start, length, warmup):
    ramp = Ramp(start, length, warmup)
    shares = [ramp(step) for step in range(102)]
    assert shares == sorted(shares)
    assert shares[:start] == [0] * start
    assert shares[start] > 0
    assert shares[start + max(length - 1, 0)] == 1
    assert all(ramp.learns(step) == (step >= start - warmup) for step in range(102))


def test_a_warm_start_is_before_the_ramp():
    ramp = Ramp(start=4, warmup=3)
    assert [ramp.learns(step) for step in range(5)] == [False, True, True, True, True]
    assert [ramp(step) for step in range(5)] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("weight", [FixedWeight(0.3), AdaptiveWeight(0.8), AdaptiveWeight(1.0, 1e-6, float("inf"))])
def test_the_generator_s_turn_is_ramp_times_lambda_times_its_side(weight):
    model, critic = tiny_model(), Critic(network(), "non_saturating", weight, Ramp(0, 4))
    x_hat = model.decode(model.codebook(torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]]))).mean
    reconstruction = (X - x_hat).square().mean()
    turn = critic.against(model, reconstruction, x_hat, step=1)
    side = objectives.non_saturating_loss(critic.network(x_hat))
    lambda_ = torch.tensor(0.3, dtype=torch.float64)
    if isinstance(weight, AdaptiveWeight):
        last = model.decoder.layers[1][-1].weight
        norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].square().sum().sqrt() for loss in (reconstruction, side)]
        lambda_ = weight.factor * norms[0] / (norms[1] + weight.delta)
    torch.testing.assert_close(turn.weight, lambda_)
    torch.testing.assert_close(turn.value, 0.5 * lambda_ * side)
    assert not turn.weight.requires_grad
    assert {name: float(value) for name, value in turn.metrics.items()} == {"adversarial": float(side.detach()), "lambda": float(turn.weight), "ramp": 0.5}


def test_after_the_adaptive_weight_both_gradients_are_as_long_at_the_last_layer():
    model, critic = tiny_model(), Critic(network(), "hinge", AdaptiveWeight(1.0, 0.0, float("inf")))
    x_hat = model.decode(model.codebook(torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0]]))).mean
    reconstruction = (X - x_hat).abs().mean()
    turn, last = critic.against(model, reconstruction, x_hat, 0), model.decoder.last_weight
    (a,), (b,) = (torch.autograd.grad(loss, last, retain_graph=True) for loss in (reconstruction, turn.value))
    torch.testing.assert_close(a.norm(), b.norm())


@pytest.mark.parametrize("decoder", [
    lambda: ImageDecoder(2, 2, (8,), IMAGE),
    lambda: ConvDecoder(4, 2),
    lambda: SiteDecoder(Decoder(3, 3, Ladder(32, (1, 1), 1, ())), 2, 3, (2, 2)),
    lambda: OrderedDecoder(SiteDecoder(Decoder(3, 3, Ladder(32, (1, 1), 1, ())), 2, 3, (2, 2)), Ordered(torch.tensor([3, 1, 0, 2]))),
])  # fmt: skip
def test_the_last_weight_makes_the_image_alone(decoder):
    """The gradient of a constant times a pixel's sum passes no nonlinearity behind it: the image is affine in the last weights."""
    made = decoder()
    last, sites = made.last_weight, 16 if isinstance(made, ConvDecoder) else 4 if not isinstance(made, ImageDecoder) else 2
    e = torch.randn(1, sites, 2)
    with torch.no_grad():
        at = []
        for scale in (0.0, 1.0, 2.0):
            kept = last.clone()
            last.mul_(scale)
            at.append(made(e))
            last.copy_(kept)
    torch.testing.assert_close(at[2] - at[1], at[1] - at[0])
    assert (at[1] - at[0]).abs().max() > 0
    assert at[0].flatten(2).std(-1).max() < 1e-6 or isinstance(made, ImageDecoder), "without them nothing but a bias is left"


def test_lecam_keeps_running_means_of_whole_steps():
    lecam = LeCAM(0.5, decay=0.9).double()
    real, made = torch.randn(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(lecam(real, made), 0.5 * (real.square().mean() + made.square().mean()))
    rows = {"critic_real": real.flatten(1).mean(1), "critic_made": made.flatten(1).mean(1)}
    lecam.update(rows)
    lecam.update({})
    torch.testing.assert_close(lecam.real, 0.1 * real.mean())
    torch.testing.assert_close(lecam.made, 0.1 * made.mean())
    torch.testing.assert_close(lecam(real, made), 0.5 * ((real - lecam.made).square().mean() + (made - lecam.real).square().mean()))


@pytest.mark.parametrize("kind", ["hinge", "min_max"])
def test_only_the_zero_sum_critic_hears_lambda(kind):
    critic, weight = Critic(network(), kind, lecam=LeCAM(0.0)), torch.tensor(3.0, dtype=torch.float64)
    heard, alone = (critic.judgement(X, X.flip(0), w)[0] for w in (weight, None))
    torch.testing.assert_close(heard, (3.0 if kind == "min_max" else 1.0) * alone)


def test_a_decoder_that_does_not_say_its_last_layer_is_refused():
    model = tiny_model()
    model.decoder = nn.Sequential(model.decoder)
    x_hat = model.decode(model.codebook(torch.zeros(4, 2, dtype=torch.long))).mean
    with pytest.raises(TypeError, match=r"Sequential does not say which that is: give it a property last_weight, or pass FixedWeight"):
        Critic(network()).against(model, x_hat.mean(), x_hat, 0)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="there is no critic loss 'wgan'; known: hinge"):
        Critic(network(), "wgan")


@pytest.mark.parametrize("lecam", [None, LeCAM(0.1)])
def test_logits_of_sixteen_bits_are_judged_in_full_precision(lecam):
    """The losses are those of the rounded logits, but computed in float32; what comes in double precision stays so."""
    net, x, x_hat = network().float(), X.float(), X.float().flip(0)
    critic, model = Critic(net, "non_saturating", FixedWeight(1.0), lecam=lecam), tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        real, made = net(x), net(x_hat)
        loss, metrics, rows = critic.judgement(x, x_hat, None)
        turn = critic.against(model, loss, x_hat, 0)
    assert real.dtype == torch.bfloat16
    expected = critic.game.critic(real.float(), made.float()) + (0 if lecam is None else lecam(real.float(), made.float()))
    assert torch.equal(loss, expected)
    assert torch.equal(turn.metrics["adversarial"], critic.game.generator(made.float()))
    assert {value.dtype for value in (loss, turn.value, *metrics.values(), *rows.values())} == {torch.float32}
    assert Critic(network()).judgement(X, X.flip(0), None)[0].dtype == torch.float64
