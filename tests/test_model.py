"""The model p(x, z) = p(z) p(x|z) against brute force, and the errors of its users."""

import pytest
import torch
from torch import nn

from latentcomp.codebook.codebook import Codebook
from latentcomp.enumeration import all_codes, log_joint_table
from latentcomp.likelihoods import Bernoulli, Categorical, DiscretisedLogistic
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive, Uniform
from tests.frequencies import assert_frequencies, positions
from tests.scenarios import IMAGE, brute_force_log_joint, tiny_images, tiny_model

DRAWS = 20_000


class Energy(Bernoulli):
    """A likelihood whose normaliser nobody knows."""

    normalised = False


def conditional_model() -> LatentVariableModel:
    model = tiny_model()
    model.prior = Autoregressive(PrefixMLP((3, 3), 5, 8), nn.Embedding(2, 5)).double()
    return model


@pytest.mark.parametrize("learned_prior", [False, True])
def test_log_joint_equals_brute_force_for_any_number_of_samples(learned_prior):
    model, x = tiny_model(learned_prior=learned_prior), tiny_images(4)
    z = all_codes(model.cardinalities).unsqueeze(1).expand(-1, 4, -1)
    torch.testing.assert_close(model.log_joint(x, z).T, brute_force_log_joint(model, x))
    torch.testing.assert_close(model.log_joint(x, z[5]), brute_force_log_joint(model, x)[:, 5])
    torch.testing.assert_close(model.log_joint(x, z.view(3, 3, 4, 2)).view(9, 4).T, brute_force_log_joint(model, x))


def test_log_joint_is_prior_plus_likelihood_given_the_condition():
    model, x, z, c = conditional_model(), tiny_images(2), torch.tensor([[0, 1], [2, 2]]), torch.tensor([1, 0])
    expected = model.log_likelihood(x, z) + torch.stack([model.prior(c[b : b + 1]).log_prob(z[b : b + 1])[0] for b in range(2)])
    torch.testing.assert_close(model.log_joint(x, z, c), expected)


@pytest.mark.parametrize("learned_prior", [False, True])
def test_dreams_have_the_joint_frequencies_of_the_model(learned_prior):
    """All 64 images x 9 codes are cells; that their probabilities sum to one is a check of the likelihood too."""
    model = tiny_model(learned_prior=learned_prior)
    every = all_codes((2,) * 6).view(-1, *IMAGE).double()
    p = log_joint_table(model, every).exp()
    torch.testing.assert_close(p.sum(), torch.tensor(1.0, dtype=torch.float64))
    x, z = model.sample(DRAWS, noise=Noise(0, 0, torch.arange(DRAWS)))
    assert not x.requires_grad
    cells = positions(x.flatten(1).long(), (2,) * 6) * 9 + positions(z, (3, 3))
    assert_frequencies(cells, p.flatten())


def test_conditional_dreams_follow_their_own_condition():
    model, c = conditional_model(), torch.tensor([0, 1]).repeat_interleave(3000)
    _, z = model.sample(6000, c, Noise(0, 0, torch.arange(6000)))
    for value, drawn in enumerate(z.split(3000)):
        assert_frequencies(positions(drawn, (3, 3)), model.prior(torch.tensor([value])).table()[0].exp())


@pytest.mark.parametrize("n", [1, 3])
def test_other_conditions_than_dreams_are_refused(n):
    """One stream of noise for two conditions would dream the same numbers twice."""
    with pytest.raises(ValueError, match=f"{n} dreams of 2 conditions: pass n=2"):
        conditional_model().sample(n, torch.tensor([0, 1]))


def test_dreams_follow_the_global_seed_or_the_given_streams():
    model, index = tiny_model(), torch.arange(20)
    torch.manual_seed(0)
    first = model.sample(20)
    torch.manual_seed(0)
    assert all(torch.equal(a, b) for a, b in zip(first, model.sample(20), strict=True))
    whole, part = model.sample(20, noise=Noise(0, 0, index)), model.sample(5, noise=Noise(0, 0, index[10:15]))
    assert all(torch.equal(a[10:15], b) for a, b in zip(whole, part, strict=True))


def test_decoder_evaluations_count_decoded_images():
    model = tiny_model()
    assert (model.image_shape, model.decoder_evaluations) == (IMAGE, 0)
    model.log_joint(tiny_images(4), torch.zeros(3, 4, 2, dtype=torch.long))
    assert model.decoder_evaluations == 12
    model.sample(5)
    assert model.decoder_evaluations == 17


def test_image_shape_is_that_of_the_images_not_of_the_parameters():
    for likelihood, channels in ((DiscretisedLogistic(), 6), (Categorical(4), 4)):
        model = LatentVariableModel(Uniform(2, 3), Codebook(3, 2), ImageDecoder(2, 2, (8,), (channels, 4, 5)), likelihood)
        assert model.image_shape == ((3, 4, 5) if channels == 6 else (1, 4, 5))
        assert model.sample(2)[0].shape == (2, *model.image_shape)


def test_decode_takes_relaxed_embeddings_with_a_gradient():
    model, e = tiny_model(), torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    p = model.decode(e)
    assert p.batch_shape == (2, 3)
    assert torch.autograd.grad(p.log_prob(tiny_images(3)).sum(), e)[0].abs().sum() > 0


@pytest.mark.parametrize("codes", [2, 4])
def test_a_codebook_of_another_size_than_the_priors_is_refused(codes):
    with pytest.raises(ValueError, match=f"codebook has K={codes} codes, but the prior's sites take up to 3: give both the same K"):
        LatentVariableModel(Uniform(2, 3), Codebook(codes, 2), ImageDecoder(2, 2, (8,), IMAGE), Bernoulli())


@pytest.mark.parametrize("shape", [(4, 1, 3, 2), (4, 2, 2, 3), (1, 2, 3), (4, 6)])
def test_images_of_another_shape_are_refused(shape):
    model = tiny_model()
    for refusing in (model.check, model.check_shape):
        with pytest.raises(ValueError, match=r"\(B, 1, 2, 3\).*Resize or unsqueeze"):
            refusing(torch.zeros(shape))


def test_log_joint_and_its_table_refuse_images_of_another_shape_and_codes_out_of_range():
    with pytest.raises(ValueError, match=r"\(B, 1, 2, 3\)"):
        tiny_model().log_joint(torch.zeros(4, 1, 3, 2), torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(B, 1, 2, 3\)"):
        log_joint_table(tiny_model(), torch.zeros(4, 1, 3, 2))
    with pytest.raises(ValueError, match=r"K=3\); got values from 0 to 3"):
        tiny_model().log_joint(tiny_images(1), torch.tensor([[0, 3]]))


def test_check_refuses_what_is_no_tensor_empty_or_outside_the_support():
    for x, error, message in (
        (tiny_images().numpy(), TypeError, "convert them with torch.as_tensor"),
        (tiny_images(0), ValueError, "the batch is empty"),
        (tiny_images().long(), TypeError, "floating type"),
        (tiny_images() / 2, ValueError, "binarise"),
    ):
        with pytest.raises(error, match=message):
            tiny_model().check(x)
    tiny_model().check(tiny_images())


def test_an_energy_refuses_to_dream_by_name():
    model = tiny_model()
    model.likelihood = Energy()
    with pytest.raises(ValueError, match=r"Energy is an unnormalised energy.*train without a sleep phase"):
        model.sample(3)
