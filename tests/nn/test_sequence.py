"""The contract of the sequence networks: one pass and the cached walk agree, and no site sees itself or what follows."""

import pytest
import torch

from latentcomp.enumeration import all_codes
from latentcomp.nn.sequence import SequenceNetwork
from tests.codes.families import H, contexts, network

B, S = 3, 4
CASES = [(family, c, width) for family in ("prefix_mlp", "transformer") for c in ((2, 3, 4), (3, 3, 3, 3), (4,)) for width in (H, 0)]
CASES += [("spread_mlp", c, H) for c in ((2, 3, 4), (4,))]
widths = pytest.mark.parametrize("width", [H, 0])
both = pytest.mark.parametrize("family", ["prefix_mlp", "transformer"])


@pytest.fixture(params=CASES, ids=str)
def case(request) -> tuple[SequenceNetwork, torch.Tensor, torch.Tensor | None]:
    """A network, codes ``(S, B, N)`` for it, and a context if it reads one."""
    family, cardinalities, width = request.param
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([torch.randint(k, (S, B), generator=generator) for k in cardinalities], -1)
    return network(family, cardinalities, width), z, contexts(B) if width else None


@torch.no_grad()
def test_cached_steps_equal_one_teacher_forced_pass(case):
    made, z, context = case
    cache, rows = made.start(S * B, context), z.view(S * B, -1)
    steps = [made.advance(cache, site, rows[:, site - 1] if site else None) for site in range(z.shape[-1])]
    torch.testing.assert_close(torch.stack(steps, 1).view(S, B, z.shape[-1], -1), made(z, context), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_prefix_chosen_twice_is_continued_twice(case):
    made, z, context = case
    cache, rows, twice = made.start(B, context), z[0], z[0].repeat_interleave(2, 0)
    made.advance(cache, 0, None)
    cache.select(torch.arange(B).repeat_interleave(2))
    if z.shape[-1] > 1:
        expected = made(twice, None if context is None else context.repeat_interleave(2, 0))[:, 1]
        torch.testing.assert_close(made.advance(cache, 1, rows[:, 0].repeat_interleave(2)), expected, rtol=0, atol=1e-10)


def test_logits_and_features_of_a_site_do_not_depend_on_itself_or_what_follows(case):
    made, z, context = case
    for site, k in enumerate(made.cardinalities):
        changed = z.clone()
        changed[..., site] = (z[..., site] + 1) % k
        assert torch.equal(made(z, context)[..., : site + 1, :], made(changed, context)[..., : site + 1, :])
        assert torch.equal(made.features(z, context)[..., : site + 1, :], made.features(changed, context)[..., : site + 1, :])
        assert not torch.isclose(made.features(z, context)[..., site + 1 :, :], made.features(changed, context)[..., site + 1 :, :]).all(-1).any()


def test_a_code_that_a_site_does_not_have_gets_minus_infinity(case):
    made, z, context = case
    for site, k in enumerate(made.cardinalities):
        logits = made(z, context)[..., site, :]
        assert logits[..., :k].isfinite().all()
        assert logits[..., k:].eq(-torch.inf).all()


def test_rows_are_independent_of_their_neighbours_and_of_leading_axes(case):
    made, z, context = case
    whole = made(z, context)
    assert whole.shape == (*z.shape, max(made.cardinalities))
    assert made.features(z, context).shape[:-1] == (S, B, z.shape[-1] + 1)
    torch.testing.assert_close(made(z[2], context), whole[2])
    row = slice(1, 2)
    torch.testing.assert_close(made(z[:, row], None if context is None else context[row]), whole[:, row])
    if context is None:
        torch.testing.assert_close(made(z[2, 1]), whole[2, 1])


@both
def test_gradients_reach_every_parameter(family):
    made = network(family, (2, 3, 4))
    z = all_codes((2, 3, 4)).unsqueeze(1).expand(-1, B, -1)
    made(z, contexts(B)).log_softmax(-1).gather(-1, z.unsqueeze(-1)).square().sum().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@both
def test_each_context_moves_the_logits_of_its_own_row_at_every_site(family):
    made, z = network(family, (3, 3)), torch.zeros(B, 2, dtype=torch.long)
    moved = contexts(B)
    moved[1] += 1
    same = torch.isclose(made(z, contexts(B)), made(z, moved)).all(-1)
    assert same.tolist() == [[True, True], [False, False], [True, True]]


@both
@widths
def test_a_context_of_another_width_is_refused_with_the_remedy(family, width):
    with pytest.raises(ValueError, match=rf"context of width {width}.*5 features: give the network context=5"):
        network(family, (3, 3), width)(torch.zeros(B, 2, dtype=torch.long), torch.zeros(B, 5, dtype=torch.float64))


@pytest.mark.parametrize("context", [None, torch.zeros(3, H + 1, dtype=torch.float64)])
def test_a_spread_context_must_be_there_and_as_wide_as_was_said(context):
    with pytest.raises(ValueError, match=f"built for a context of width {H} and got"):
        network("spread_mlp", (2, 3))(torch.zeros(3, 2, dtype=torch.long), context)
