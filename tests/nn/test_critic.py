"""The patch critic: its published size, its receptive field, its norms."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from latentcomp.nn.batch_norm import SharedBatchNorm2d
from latentcomp.nn.critic import ActNorm, PatchCritic, group_norm


def test_the_published_size():
    with torch.device("meta"):
        critic = PatchCritic()
        assert sum(p.numel() for p in critic.parameters()) == 2_765_633
        assert critic(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_logit_sees_a_patch_of_seventy_pixels():
    critic = PatchCritic(1, 4).eval()
    x = torch.zeros(1, 1, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic(x)[0, 0, 7, 7], x)
    seen = gradient[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_the_usual_norm_is_torch_s_batch_norm_in_one_process_and_shared_by_several():
    """The same names and numbers of the state, so that what was saved with either is read by the other."""
    torch.manual_seed(0)
    usual = PatchCritic(1, 4, 2)
    torch.manual_seed(0)
    torchs = PatchCritic(1, 4, 2, nn.BatchNorm2d)
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(usual(x), torchs(x))
    assert usual.state_dict().keys() == torchs.state_dict().keys()
    torchs.load_state_dict(usual.state_dict())
    assert len([module for module in usual.modules() if isinstance(module, SharedBatchNorm2d)]) == 2


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, ActNorm])
def test_weights_start_small(norm):
    critic = PatchCritic(3, 16, 2, norm)
    assert len([layer for layer in critic.layers if isinstance(layer, norm)]) == 2
    weight = torch.cat([layer.weight.detach().flatten() for layer in critic.layers if isinstance(layer, nn.Conv2d)])
    assert abs(float(weight.std()) - 0.02) < 1e-3


def test_actnorm_is_set_by_its_first_batch_in_training():
    x = 5 + 3 * torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    norm = ActNorm(4).eval()
    assert torch.equal(norm(x), x)
    y = norm.train()(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    assert torch.equal(norm(2 * x), norm.scale * (2 * x + norm.shift))  # from then on its parameters learn
    again = ActNorm(4)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again(2 * x), norm(2 * x))


def test_actnorm_reads_its_state_from_the_device_once():
    class Reads(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Reads.count += function is torch.ops.aten._local_scalar_dense.default
            return function(*args, **(kwargs or {}))

    norm, x = ActNorm(4).train(), torch.randn(8, 4, 6, 6)
    norm(x)
    again = copy.deepcopy(norm)
    with Reads():
        norm(x), again(x)
        assert Reads.count == 0
        again.load_state_dict(ActNorm(4).state_dict())  # begins anew, so it must look
        begun = again(x)
        again(x), again.eval()(x)
        assert Reads.count == 1
    torch.testing.assert_close(begun.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_smallest_image_gives_one_logit_and_a_smaller_one_is_refused(layers):
    critic = PatchCritic(3, 4, layers)
    side = 3 * 2**layers
    assert critic(torch.zeros(1, 3, side, side)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=rf"at least {side} x {side} pixels; got 3 of {side} x {side - 1}.*fewer layers"):
        critic(torch.zeros(1, 3, side, side - 1))


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"3 channel\(s\).*got 1 of 64 x 64: build PatchCritic with inputs=1"):
        PatchCritic(3, 4)(torch.zeros(1, 1, 64, 64))


def test_with_group_norm_an_image_s_logits_are_its_own_and_no_state_is_written():
    critic = PatchCritic(3, 8, 2, group_norm).double().train()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(critic(x)[:1], critic(x[:1]))
    assert not list(critic.buffers())
    other = PatchCritic(3, 8, 2).double().train()
    assert not torch.allclose(other(x)[:1], other(x[:1]))
