"""What the autoregressive family has beyond the contract: the cached walk makes the draws that teacher-forced scoring implies."""

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.noise import Noise
from tests.codes.families import build, contexts, network

CARDINALITIES, B, S = (2, 3, 4), 3, 50
NETWORKS = ("prefix_mlp", "transformer")
both = pytest.mark.parametrize("family", NETWORKS)


@both
@pytest.mark.parametrize("settings", [(0.0, 1.0), (0.3, 2.0)])
def test_each_draw_inverts_the_teacher_forced_conditional(family, settings):
    """z_i is the code whose stretch of the cumulative distribution, scored in one pass, holds the uniform number of site i."""
    q = build(family, CARDINALITIES, contexts()).explore(*settings)
    z = q.sample((S,), Noise(0, 0, torch.arange(B)))
    u = Noise(0, 0, torch.arange(B)).uniform((S,), (3,))
    for site, k in enumerate(CARDINALITIES):
        changed = [torch.where(torch.arange(3) == site, j, z) for j in range(k)]
        p = torch.stack([q.log_prob_steps(other)[..., site].exp() for other in changed], -1)
        above = p.cumsum(-1).gather(-1, z[..., site, None]).squeeze(-1)
        below = above - p.gather(-1, z[..., site, None]).squeeze(-1)
        assert ((below - 1e-12 <= u[..., site]) & (u[..., site] <= above + 1e-12)).all()


@both
def test_mode_is_greedy(family):
    """Each site takes its best code given the best codes before it, though another sequence may be more probable."""
    q, z = build(family, CARDINALITIES, contexts()), torch.zeros(B, 3, dtype=torch.long)
    for site in range(3):
        z[:, site] = network(family, CARDINALITIES)(z, contexts())[:, site].argmax(-1)
    assert torch.equal(q.mode, z)


@both
def test_a_log_probability_is_the_networks_log_softmax(family):
    z = build(family, CARDINALITIES, contexts()).sample((S,), Noise(0, 0, torch.arange(B)))
    logits = network(family, CARDINALITIES)(z, contexts())
    expected = torch.distributions.Categorical(logits=logits).log_prob(z).sum(-1)
    torch.testing.assert_close(build(family, CARDINALITIES, contexts()).log_prob(z), expected)


@both
def test_the_context_matters_and_exploring_keeps_it(family):
    q = build(family, CARDINALITIES, contexts())
    assert not torch.allclose(q.table()[0], q.table()[1], atol=0.1)
    assert torch.equal(q.explore(0.1).context, contexts())
    torch.testing.assert_close(q.explore(0.0, 1.0).table(), q.table())


@both
def test_features_of_prefixes_come_from_the_network(family):
    made, z = network(family, CARDINALITIES), torch.tensor([[0, 1, 2]] * B)
    assert torch.equal(AutoregressiveCodes(made, contexts()).features(z), made.features(z, contexts()))


@both
def test_without_a_context_its_absence_is_explained(family):
    with pytest.raises(AttributeError, match="choose a posterior with an encoder"):
        _ = build(family, CARDINALITIES, None).context


@pytest.mark.parametrize(("epsilon", "temperature"), [(-1.0, 1.0), (0.0, 0.0)])
def test_settings_that_are_no_distribution_are_refused_at_once(epsilon, temperature):
    with pytest.raises(ValueError, match="must"):
        AutoregressiveCodes(network("prefix_mlp", CARDINALITIES), contexts(), epsilon, temperature)
