"""The sleep phase: dreams of the model, one for each datum, and the cross-entropy from their true codes."""

import pytest
import torch
from torch import nn

from latentcomp.batch import Batch
from latentcomp.codebook.codebook import Codebook
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from latentcomp.phases.sleep import Sleep
from latentcomp.priors import Autoregressive
from tests.frequencies import assert_frequencies, positions
from tests.learners.tuples import gradient
from tests.scenarios import IMAGE, Perceptual, posterior, tiny_images, tiny_model

X = tiny_images(4)
NOISE = (3, 1, torch.arange(4))


def test_the_loss_is_the_weighted_cross_entropy_of_the_dreams_codes():
    model, q = tiny_model(learned_prior=True), posterior("prefix_mlp")
    x, z = model.sample(4, noise=Noise(*NOISE))
    given = Sleep(weight=0.3)(model, q, Batch(X), Noise(*NOISE))
    by_loop = -sum(q(model, x[b : b + 1]).log_prob(z[b : b + 1]).squeeze() for b in range(4)) / 4
    torch.testing.assert_close(given, 0.3 * by_loop)
    assert gradient(given, list(q.parameters())).norm() > 0
    assert gradient(given, list(model.parameters())).norm() == 0


def test_images_of_the_batch_play_no_part():
    model, q = tiny_model(), posterior("factorised")
    losses = [Sleep()(model, q, Batch(x), Noise(*NOISE)) for x in (X, 1 - X)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_it_is_due_with_its_probability_as_a_function_of_seed_and_step(probability):
    """Error rate: five standard deviations, 6e-7."""
    sleep = Sleep(probability=probability)
    due = [sleep.due(7, step) for step in range(2000)]
    assert abs(sum(due) / 2000 - probability) <= 5 * (probability * (1 - probability) / 2000) ** 0.5
    assert due == [sleep.due(7, step) for step in range(2000)]
    assert probability in (0, 1) or due != [sleep.due(8, step) for step in range(2000)]


def test_dreams_are_dreamt_under_the_condition_of_each_datum():
    torch.manual_seed(0)
    prior = Autoregressive(CausalTransformer((3, 3), 4, width=8, layers=1, heads=2), nn.Linear(2, 4, bias=False))
    for parameter in prior.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    model = LatentVariableModel(prior, Codebook(3, 2), ImageDecoder(2, 2, (8,), IMAGE), tiny_model().likelihood).double()
    c = torch.eye(2).double().repeat(2000, 1)
    seen, q = [], posterior("factorised")

    def spied(model, x, c):
        distribution = q(model, x, c)
        log_prob = distribution.log_prob
        distribution.log_prob = lambda z: seen.append(z) or log_prob(z)
        return distribution

    Sleep()(model, spied, Batch(torch.zeros(4000, *IMAGE).double(), c), Noise(1, 0, torch.arange(4000)))
    p = prior(c[:2]).table().exp()
    assert (p[0] - p[1]).abs().sum() > 0.2
    for condition in range(2):
        assert_frequencies(positions(seen[0][condition::2], (3, 3)), p[condition])


def test_a_likelihood_that_is_an_energy_is_refused_by_name():
    model = tiny_model()
    model.likelihood = Perceptual()
    with pytest.raises(ValueError, match="Perceptual is an unnormalised energy: x cannot be drawn from it.*train without a sleep phase"):
        next(WakeSleep(posterior("factorised")).losses(model, Batch(X)))
