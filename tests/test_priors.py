"""Priors: p(z) and p(z|c) against sums over all codes."""

import math

import pytest
import torch
from torch import nn

from latentcomp.codes.masked import MaskedCodes
from latentcomp.conditions import Conditioning, Labels
from latentcomp.enumeration import all_codes
from latentcomp.evaluate.images import prior_samples
from latentcomp.model import with_prior
from latentcomp.nn.guided import Guided
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.priors import Autoregressive, InOrder, Masked, Uniform
from tests.codes.families import network, stirred
from tests.scenarios import tiny_model


@pytest.mark.parametrize(("sites", "codes", "cardinalities"), [(2, 3, (3, 3)), (3, (2, 3, 4), (2, 3, 4)), (1, 5, (5,))])
def test_uniform_gives_every_sequence_the_same_probability(sites, codes, cardinalities):
    prior = Uniform(sites, codes)
    assert prior.cardinalities == cardinalities
    count = math.prod(cardinalities)
    torch.testing.assert_close(prior().log_prob(all_codes(cardinalities)), torch.full((count,), -math.log(count)))


def test_uniform_ignores_a_condition_and_follows_the_models_precision():
    assert Uniform(2, 3)(torch.zeros(4, 1)).batch_shape == ()
    assert Uniform(2, 3).double()().log_prob(torch.zeros(2, dtype=torch.long)).dtype == torch.float64
    assert not Uniform(2, 3).state_dict()


@pytest.mark.parametrize("family", ["prefix_mlp", "transformer"])
def test_autoregressive_is_the_chain_rule_through_its_network(family):
    made, z = network(family, (2, 3, 4), 0), all_codes((2, 3, 4))
    prior = Autoregressive(made)
    assert prior.cardinalities == (2, 3, 4)
    expected = made(z).log_softmax(-1).gather(-1, z.unsqueeze(-1)).sum((-2, -1))
    torch.testing.assert_close(prior().log_prob(z), expected)
    torch.testing.assert_close(prior().log_prob(z).exp().sum(), torch.tensor(1.0, dtype=torch.float64))
    assert torch.equal(prior(torch.zeros(4, 1)).log_prob(z), prior().log_prob(z))  # without a map from c, c changes nothing


def test_a_condition_gives_each_row_its_own_distribution():
    torch.manual_seed(0)
    condition = nn.Embedding(2, 5)
    prior, z = Autoregressive(PrefixMLP((3, 3), 5, 8), condition), all_codes((3, 3))
    p = prior(torch.tensor([0, 1, 1]))
    assert p.batch_shape == (3,)
    table = p.log_prob(z.unsqueeze(1).expand(-1, 3, -1)).exp()
    torch.testing.assert_close(table.sum(0), torch.ones(3))
    torch.testing.assert_close(table[:, 1], table[:, 2])
    assert (table[:, 0] - table[:, 1]).abs().max() > 0.01
    table[0].sum().backward()
    assert condition.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("codes", [(2, 3), (2, 3, 4, 5)])
def test_other_cardinalities_than_sites_are_refused(codes):
    with pytest.raises(ValueError, match="3 sites need 3 cardinalities"):
        Uniform(3, codes)


@pytest.mark.parametrize(("sites", "codes"), [(0, 3), (2, 0), (2, (3, 0))])
def test_a_prior_over_nothing_is_refused(sites, codes):
    with pytest.raises(ValueError, match="at least one site, and each site at least one code"):
        Uniform(sites, codes)


@pytest.mark.parametrize("ask", ["prior", "in order", "samples", "dreams"])
@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_a_condition_is_never_left_out_in_silence(kind, ask):
    """Neither by the prior itself nor by what asks priors for p(z); with all rows marked, p(z) is asked for."""
    autoregressive = lambda: Autoregressive(stirred(lambda: ModernTransformer((3, 3), Width(8, 1, 2), (2, 1))), Conditioning(Labels(2)))  # noqa: E731
    masked = lambda: Masked(stirred(lambda: MaskedTransformer((3, 3), 8, 1, 2, (2, 1))), Conditioning(Labels(2)))  # noqa: E731
    prior = {"autoregressive": autoregressive, "masked": masked}[kind]()
    model, c, z = with_prior(tiny_model(), prior), torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 2]])
    silent = {
        "prior": prior,
        "in order": InOrder(prior, torch.tensor([1, 0])),
        "samples": lambda: prior_samples(model)(0, 2),
        "dreams": lambda: model.sample(2),
    }[ask]
    with pytest.raises(ValueError, match=r"has a condition, so it is asked with one: prior\(c\).*prior\(c\).unconditioned\(rows\)"):
        silent()
    score = lambda p: p.log_prob_in_order(z, torch.arange(2)) if isinstance(p, MaskedCodes) else p.log_prob(z)  # noqa: E731
    torch.testing.assert_close(score(prior(c).unconditioned(torch.tensor([True, True]))), score(type(prior)(prior.network)()))


@pytest.mark.parametrize("kind", ["autoregressive", "guided", "masked"])
def test_the_code_for_no_condition_is_no_condition_s(kind):
    """A condition of three codes for a network of two: the third would be read as none at all."""
    modern, condition = ModernTransformer((3, 3), Width(8, 1, 2), (2, 1)), Conditioning(Labels(3))
    prior = {
        "autoregressive": lambda: Autoregressive(modern, condition),
        "guided": lambda: Autoregressive(Guided(modern, 2.0), condition),
        "masked": lambda: Masked(MaskedTransformer((3, 3), 8, 1, 2, (2, 1)), condition),
    }[kind]()
    assert prior(torch.tensor([0, 1])).batch_shape == (2,)
    with pytest.raises(ValueError, match=r"a condition's codes must lie in its vocabulary 0..1; got values from 0 to 2"):
        prior(torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"built without conditions: build it with conditions=\(C, M\)"):
        Masked(MaskedTransformer((3, 3), 8, 1, 2), condition)(torch.tensor([0]))
