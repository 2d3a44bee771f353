"""How many images are decoded at once where no gradient is wanted."""

from functools import partial

import pytest
import torch
from torch import nn

from latentcomp import chunks
from latentcomp.codebook.codebook import Codebook
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.convolutional import ConvDecoder, Norm
from latentcomp.priors import Uniform
from tests.scenarios import tiny_images, tiny_model


class Counting(nn.Module):
    """A decoder that notes how many rows it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.rows = network, []

    def forward(self, e: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(e))
        return self.network(e)


def model_of(channels: int, norm: Norm | None = None) -> LatentVariableModel:
    """Whose widest layer leaves ``channels`` numbers for each of 28x28 pixels."""
    return LatentVariableModel(Uniform(16, 4), Codebook(4, 1), Counting(ConvDecoder(channels, 1, norm)), Bernoulli())


def codes(n: int) -> torch.Tensor:
    return torch.randint(4, (n, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "dtype"), [(8, torch.float32), (32, torch.float32), (32, torch.float64)])
def test_the_widest_layer_of_so_many_images_just_fits(channels, dtype):
    model = model_of(channels).to(dtype)
    each = 784 * channels * (torch.finfo(dtype).bits // 8)
    images = chunks.images_at_once(model._one_image[1], next(model.parameters()))
    assert images * each <= chunks.NEAR < (images + 1) * each


def test_an_image_that_does_not_fit_is_decoded_by_itself(monkeypatch):
    monkeypatch.setattr(chunks, "NEAR", 1)
    assert chunks.images_at_once(10, torch.zeros(1)) == 1


def test_without_a_gradient_the_decoder_is_given_a_part_at_a_time(monkeypatch):
    model, x = model_of(2), torch.rand(7, 1, 28, 28).round()
    monkeypatch.setattr(chunks, "NEAR", 4 * 784 * 2 * 3)
    whole = model.log_joint(x, codes(7))
    with torch.no_grad():
        parts = model.log_joint(x, codes(7))
    assert model.decoder.rows == [1, 7, 3, 3, 1]
    assert model.decoder_evaluations == 14
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize(("training", "remembers", "rows"), [(True, True, [7]), (False, False, [7]), (False, True, [3, 3, 1])])
def test_a_batch_norm_that_takes_moments_is_given_its_whole_batch(training, remembers, rows, monkeypatch):
    model = model_of(2, partial(nn.BatchNorm2d, track_running_stats=remembers)).train(training)
    model.image_shape  # noqa: B018  # looks at one image
    monkeypatch.setattr(chunks, "NEAR", 4 * 784 * 2 * 3)
    model.decoder.rows.clear()
    with torch.no_grad():
        model.log_likelihood(torch.rand(7, 1, 28, 28).round(), codes(7))
    assert model.decoder.rows == rows


def test_looking_leaves_nothing_behind():
    model = tiny_model()
    model.check(tiny_images(2))
    assert model.decoder_evaluations == 0
    assert not any(module._forward_hooks for module in model.decoder.modules())


def test_what_learns_from_a_batch_does_not_learn_from_the_look():
    model = model_of(2, nn.BatchNorm2d)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.check(torch.rand(2, 1, 28, 28).round())
    assert all(module.training for module in model.modules())
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
