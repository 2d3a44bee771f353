"""Rejection by a classifier: the best of all, whatever the chunks."""

import pytest
import torch

from latentcomp.noise import Noise
from latentcomp.priors import Uniform
from latentcomp.sampling.rejection import accepted, class_score

PRIOR = Uniform(4, 10)


def draw(noise: Noise) -> torch.Tensor:
    """Uniform codes, a row for each stream."""
    return PRIOR().sample((len(noise._keys),), noise)


def test_the_best_of_all_are_kept_whatever_the_chunks():
    score = lambda z: z.sum(-1) + z[:, 0] / 100  # noqa: E731
    everything = PRIOR().sample((200,), Noise(3, 0, torch.arange(200)))
    best = everything[score(everything).argsort(descending=True, stable=True)[:10]]
    for chunk in (1, 7, 200, 1000):
        assert torch.equal(accepted(draw, score, 10, 0.05, seed=3, chunk=chunk), best)
    assert torch.equal(accepted(draw, score, 7, 0.3, seed=3)[:1], everything[:24][score(everything[:24]).argmax()][None])  # ceil(7 / 0.3) = 24


def test_at_rate_one_all_stay():
    z = accepted(draw, lambda z: torch.zeros(len(z)), 5, 1.0, seed=1)
    assert torch.equal(z, PRIOR().sample((5,), Noise(1, 0, torch.arange(5))))


def test_noise_lies_on_the_prior_s_device():
    prior = Uniform(4, 10).to("meta")
    seen = []

    def draw_there(noise: Noise) -> torch.Tensor:
        seen.append(noise._keys.device.type)
        return prior().sample((len(noise._keys),), noise)

    assert accepted(draw_there, lambda z: z.sum(-1), 3, 0.5, chunk=4, device="meta").is_meta
    assert seen == ["meta", "meta"]


def test_the_score_is_the_classifier_s_log_probability():
    weight = torch.randn(4, 3)
    score = class_score(lambda z: z.float(), lambda x: x @ weight, 2)
    z = torch.randint(10, (6, 4))
    torch.testing.assert_close(score(z), (z.float() @ weight).softmax(-1)[:, 2].log())


def test_no_rate_is_refused():
    for rate in (0.0, 1.1):
        with pytest.raises(ValueError, match=rf"share of samples that are kept, in \(0, 1\]; got {rate}"):
            accepted(draw, lambda z: z[:, 0], 1, rate)
    with pytest.raises(ValueError, match="got n=0, chunk=64"):
        accepted(draw, lambda z: z[:, 0], 0, 0.5)
