"""Enumeration: the order of codes, tables against loops, and when it refuses."""

import itertools
import math

import pytest
import torch
from torch import nn

from latentcomp.enumeration import LIMIT, TooManyCodes, all_codes, enumerable, log_joint_table, log_prior_table
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.priors import Autoregressive
from tests.scenarios import brute_force_log_joint, tiny_images, tiny_model


@pytest.mark.parametrize("cardinalities", [(4,), (2, 3), (3, 1, 2), (2, 3, 4)])
def test_all_codes_are_listed_once_the_first_site_slowest(cardinalities):
    assert all_codes(cardinalities).tolist() == [list(z) for z in itertools.product(*map(range, cardinalities))]


@pytest.mark.parametrize("chunk", [1, 4, 8192])
@pytest.mark.parametrize("learned_prior", [False, True])
def test_the_table_equals_brute_force_whatever_the_chunk(learned_prior, chunk):
    model, x = tiny_model(learned_prior=learned_prior), tiny_images()
    torch.testing.assert_close(log_joint_table(model, x, chunk=chunk), brute_force_log_joint(model, x))


def test_the_table_has_the_gradient_of_brute_force():
    model, x = tiny_model(learned_prior=True), tiny_images()
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(table.logsumexp(-1).sum(), parameters, materialize_grads=True)
        for table in (log_joint_table(model, x), brute_force_log_joint(model, x))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(gradient.isfinite().all() for gradient in gradients[0])


def test_a_condition_enters_the_table_of_its_row():
    model, x, c = tiny_model(), tiny_images(3), torch.tensor([0, 1, 1])
    model.prior = Autoregressive(PrefixMLP((3, 3), 5, 8), nn.Embedding(2, 5)).double()
    table, codes = log_joint_table(model, x, c), all_codes((3, 3))
    for b in range(3):
        for m, z in enumerate(codes):
            torch.testing.assert_close(table[b, m], model.log_joint(x[b : b + 1], z.unsqueeze(0), c[b : b + 1])[0])
    assert log_prior_table(model, codes, c).shape == (3, 9)
    assert not torch.allclose(log_prior_table(model, codes, c)[0], log_prior_table(model, codes, c)[1])


def test_what_can_be_enumerated_depends_on_codes_and_images():
    assert enumerable((2,) * 30)
    assert not enumerable((2,) * 31)
    assert not enumerable((2,) * 30, images=2)
    assert LIMIT == 2**30


@pytest.mark.parametrize(("cardinalities", "count", "memory"), [((4096,) * 4, "2.81e+14", "1.05e+6"), ((512,) * 256, "3.74e+693", "1.39e+685")])
def test_a_refusal_names_the_count_the_memory_and_the_alternative(cardinalities, count, memory):
    """The second case, a 16 x 16 grid of 512 codes, overflows a floating-point number."""
    with pytest.raises(TooManyCodes) as refusal:
        all_codes(cardinalities)
    assert f"make {count} code sequences" in str(refusal.value)
    assert f"takes {memory} GiB" in str(refusal.value)
    assert "the limit is 4 GiB" in str(refusal.value)
    assert "latentcomp.evaluate.importance.log_px" in str(refusal.value)
    assert isinstance(refusal.value, ValueError)


def test_too_many_images_are_refused_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr("latentcomp.enumeration.LIMIT", 20)
    model = tiny_model()
    assert log_joint_table(model, tiny_images(2)).shape == (2, 9)
    decoded = model.decoder_evaluations
    with pytest.raises(TooManyCodes, match=r"make 9 code sequences; a table of them for 3 image\(s\).*Pass fewer images"):
        log_joint_table(model, tiny_images(3))
    assert model.decoder_evaluations == decoded


def test_each_sequence_is_decoded_once_whatever_the_number_of_images():
    model = tiny_model()
    log_joint_table(model, tiny_images(7))
    assert model.decoder_evaluations == math.prod(model.cardinalities)
