"""How many images are decoded at once."""

import pytest
import torch

from latentcomp.codebook.codebook import Codebook
from latentcomp.evaluate import chunks, distinct
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.convolutional import ConvDecoder
from latentcomp.priors import Uniform
from tests.scenarios import tiny_images, tiny_model


def model_of(channels: int) -> LatentVariableModel:
    """Whose widest layer leaves ``channels`` numbers for each of 28x28 pixels."""
    return LatentVariableModel(Uniform(16, 4), Codebook(4, 1), ConvDecoder(channels, 1), Bernoulli())


@pytest.mark.parametrize(("channels", "dtype"), [(8, torch.float32), (32, torch.float32), (32, torch.float64)])
def test_the_widest_layer_of_so_many_images_just_fits(channels, dtype):
    model = model_of(channels).to(dtype)
    each = 784 * channels * (torch.finfo(dtype).bits // 8)
    images = chunks.images_at_once(model)
    assert images * each <= chunks.NEAR < (images + 1) * each


def test_a_small_decoder_has_a_limit_and_a_huge_one_decodes_one_by_one(monkeypatch):
    assert chunks.images_at_once(tiny_model()) == chunks.MOST
    monkeypatch.setattr(chunks, "NEAR", 1)
    assert chunks.images_at_once(tiny_model()) == 1


def test_looking_leaves_nothing_behind():
    model = tiny_model()
    chunks.images_at_once(model)
    assert model.decoder_evaluations == 0
    assert not any(module._forward_hooks for module in model.decoder.modules())


@pytest.mark.parametrize("at_once", [1, 5, None])
def test_the_likelihoods_do_not_depend_on_it(at_once):
    model, x = tiny_model(), tiny_images(3)
    z = torch.randint(3, (7, 3, 2), generator=torch.Generator().manual_seed(0))
    found = distinct.log_likelihoods(model, x, distinct.distinct(z, 3), at_once)
    torch.testing.assert_close(found, model.log_likelihood(x, z))
