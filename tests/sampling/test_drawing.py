"""How codes are drawn of any prior: by default as it is; else cut in the prior's own sequence, and refused where it has none."""

import pytest
import torch

from latentcomp.conditions import Conditioning, Labels
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.priors import Autoregressive, Masked, Uniform, context_of
from latentcomp.sampling.drawing import Drawing
from tests.codes.families import network

C = torch.tensor([0, 1])


def test_by_default_a_prior_is_what_it_is():
    masked, uniform = Masked(MaskedTransformer((3,) * 4, 8, 1, 2)), Uniform(4, 3)
    assert type(Drawing()(masked)) is type(masked())
    assert type(Drawing()(uniform)) is type(uniform())
    for prior in (masked, uniform):
        with pytest.raises(TypeError, match=f"{type(prior).__name__} draws in its own way: leave temperature, top_k, top_p and guidance as they are"):
            Drawing(temperature=0.5)(prior)


def test_settings_out_of_range_are_refused():
    prior = Autoregressive(ModernTransformer((3,) * 4, Width(8, 1, 2), (2, 1)), Conditioning(Labels(2)))
    for drawing, message in (
        (Drawing(temperature=0.0), "temperature must be positive"),
        (Drawing(top_k=4), "top_k=4 codes cannot stay of V=3"),
        (Drawing(top_p=0.0), "top_p is a probability"),
        (Drawing(guidance=-1.0), "scale of guidance is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            drawing(prior, C)
    with pytest.raises(ValueError, match="this prior has a condition, so it is asked with one"):
        Drawing(top_k=2)(prior)


def test_guidance_needs_a_condition_and_a_network_that_can_do_without():
    z = torch.zeros(2, 4, dtype=torch.long)
    unconditional = Autoregressive(ModernTransformer((3,) * 4, Width(8, 1, 2)))
    with pytest.raises(ValueError, match="guidance moves towards a condition"):
        Drawing(guidance=2.0)(unconditional).log_prob(z)
    blind = Autoregressive(network("transformer", (3,) * 4, 3), torch.nn.Embedding(2, 3).double())
    with pytest.raises(TypeError, match="CausalTransformer has nothing that stands for no condition"):
        Drawing(guidance=2.0)(blind, C).log_prob(z)


def test_what_a_network_reads_of_a_condition():
    prior = Autoregressive(ModernTransformer((3,) * 4, Width(8, 1, 2), (2, 1)), Conditioning(Labels(2)))
    assert torch.equal(context_of(prior, C), C[:, None])
    assert context_of(Uniform(4, 3), C) is None
    assert context_of(Autoregressive(ModernTransformer((3,) * 4, Width(8, 1, 2))), C) is None
