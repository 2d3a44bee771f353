"""The contract of all posteriors: a distribution for each image, from one look at it, with parameters of their own."""

import pytest
import torch

from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.posteriors.posterior import Posterior, sites_of
from tests.scenarios import posterior, tiny_images, tiny_model

AMORTISED = ("nearest_code", "factorised", "softmax_distance", "prefix_mlp", "transformer")
amortised = pytest.mark.parametrize("kind", AMORTISED)
every = pytest.mark.parametrize("kind", [*AMORTISED, "exact", "mode"])


def made(kind: str) -> Posterior:
    """A posterior of the kind whose answer depends strongly on the image."""
    q = {"exact": Exact, "mode": lambda: Mode(Exact())}.get(kind, lambda: posterior(kind))()
    for parameter in q.parameters():
        parameter.data.mul_(4 if kind == "nearest_code" else 1)
    return q


@every
def test_each_image_gets_a_distribution_over_the_models_codes(kind):
    model, x = tiny_model(), tiny_images(4)
    q = made(kind)(model, x)
    assert (q.batch_shape, q.event_shape, q.cardinalities) == ((4,), (2,), model.cardinalities)
    torch.testing.assert_close(q.table().exp().sum(-1), torch.ones(4), check_dtype=False)
    assert q.sample((3,)).shape == (3, 4, 2)


@every
def test_the_distribution_of_an_image_depends_on_no_other_image(kind):
    model, x = tiny_model(), tiny_images(8)
    whole = made(kind)(model, x).table()
    torch.testing.assert_close(made(kind)(model, x[5:7]).table(), whole[5:7])
    assert not torch.allclose(whole[:-1].exp(), whole[1:].exp())


@amortised
def test_an_encoder_runs_once_a_call_and_not_for_samples(kind):
    model, q = tiny_model(), posterior(kind)
    runs = []
    encoder = q.trunk if hasattr(q, "trunk") else q.encoder
    encoder.register_forward_hook(lambda *_: runs.append(1))
    distribution = q(model, tiny_images())
    z = distribution.sample((5,))
    distribution.log_prob(z)
    assert len(runs) == 1


@amortised
def test_parameters_are_its_own_and_learn_from_the_distribution(kind):
    model, q = tiny_model(), posterior(kind)
    own = dict(q.named_parameters())
    assert not {id(p) for p in own.values()} & {id(p) for p in model.parameters()}
    distribution, z = q(model, tiny_images(4)), torch.tensor([[0, 1], [1, 2], [2, 0], [1, 1]])
    learned = distribution.h.square().sum() if kind == "nearest_code" else distribution.log_prob(z).sum()
    for name, gradient in zip(own, torch.autograd.grad(learned, list(own.values())), strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.abs().sum() > 0, name


def test_an_encoder_of_another_shape_is_refused_with_what_is_wanted():
    model = tiny_model()
    assert sites_of(torch.zeros(5, 2, 7), model, 7, "logits").shape == (5, 2, 7)
    for shape in ((5, 3, 7), (5, 2, 6), (5, 14)):
        with pytest.raises(ValueError, match=r"must give logits of shape \(B, 2, 7\): one row for each of the N sites; got \(5, "):
            sites_of(torch.zeros(shape), model, 7, "logits")
