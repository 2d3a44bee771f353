"""Codes written in another order: the same distribution with its sites moved."""

import pytest
import torch

from latentcomp.codes.ordered import OrderedCodes
from latentcomp.enumeration import all_codes
from latentcomp.nn.grid import Ordered
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.orders import spiral_out, z_curve
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive, InOrder, Uniform
from tests.codes.families import build, contexts, network
from tests.frequencies import assert_frequencies, positions

ORDER = torch.tensor([2, 0, 1])  # the third site of the grid is written first
WRITTEN = (4, 2, 3)  # cardinalities in the order of writing
PLACED = (2, 3, 4)  # and in the grid's
Z = all_codes(PLACED)
ROWS = Z.unsqueeze(1).expand(-1, 3, -1)


def q(family: str = "transformer") -> tuple[OrderedCodes, object]:
    """Codes in order, and the distribution inside."""
    inner = build(family, WRITTEN, contexts())
    return OrderedCodes(inner, Ordered(ORDER)), inner


@pytest.mark.parametrize("family", ["transformer", "factorised", "table"])
def test_probabilities_follow_the_sites(family):
    ordered, inner = q(family)
    assert ordered.cardinalities == PLACED
    moved = ROWS[..., [2, 0, 1]]
    torch.testing.assert_close(ordered.log_prob(ROWS), inner.log_prob(moved))
    torch.testing.assert_close(ordered.table().T, inner.log_prob(moved))
    torch.testing.assert_close(ordered.table().logsumexp(-1), torch.zeros(3, dtype=torch.float64))
    steps = ordered.log_prob_steps(ROWS)
    torch.testing.assert_close(steps[..., 2], inner.log_prob_steps(moved)[..., 0])
    torch.testing.assert_close(steps.sum(-1), ordered.log_prob(ROWS))


def test_conditionals_and_selected_data_follow_too():
    ordered, inner = q()
    torch.testing.assert_close(ordered.conditionals(ROWS)[..., 2, :], inner.conditionals(ROWS[..., [2, 0, 1]])[..., 0, :])
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(ordered.select(rows).log_prob(ROWS[:, :2]), ordered.log_prob(ROWS)[:, rows])
    torch.testing.assert_close(ordered.explore(0.3).log_prob(ROWS), inner.explore(0.3).log_prob(ROWS[..., [2, 0, 1]]))


def test_draws_have_the_probabilities_of_the_table():
    """Error rate: ``frequencies.LEVEL``, for each of three data."""
    ordered, _ = q()
    z, log_q = ordered.sample_and_log_prob((3000,), Noise(0, 0, torch.arange(3)))
    torch.testing.assert_close(log_q, ordered.log_prob(z))
    assert torch.equal(z, ordered.sample((3000,), Noise(0, 0, torch.arange(3))))
    for codes, table in zip(positions(z, PLACED).T, ordered.table(), strict=True):
        assert_frequencies(codes, table.exp())


def test_what_is_given_is_what_is_written_first():
    ordered, inner = q()
    noise = lambda: Noise(3, 0, torch.arange(3))  # noqa: E731
    z = ordered.sample((), noise())
    assert torch.equal(ordered.continued(z[:, [2]], noise()), z)
    new, _ = ordered.redraw(z, torch.tensor([1, 1, 3]), Noise(4, 0, torch.arange(3)))
    assert torch.equal(new[:, 2], z[:, 2])
    assert torch.equal(new[2], z[2])
    assert torch.equal(ordered.mode, inner.mode[:, [1, 2, 0]])


def test_as_a_prior():
    made = network("transformer", (3, 3, 3, 3), 0)
    order = torch.tensor([3, 1, 0, 2])
    prior, z = InOrder(Autoregressive(made), order), all_codes((3,) * 4)
    torch.testing.assert_close(prior().log_prob(z), Autoregressive(made)().log_prob(z[:, order]))
    assert prior().batch_shape == ()
    with pytest.raises(ValueError, match="an order of 3 sites for a prior over 4"):
        InOrder(Autoregressive(made), order[:3])
    with pytest.raises(ValueError, match=r"must hold each of 0..3 once"):
        InOrder(Autoregressive(made), torch.tensor([0, 1, 1, 2]))


def test_distributions_in_an_order_are_made_without_waiting_for_a_device():
    """The meta device has no values, so that whatever reads one fails; a loaded order is another one."""
    prior = InOrder(Uniform(3, WRITTEN), ORDER)
    assert prior.to("meta")().cardinalities == PLACED
    ordered = Ordered(ORDER)
    assert ordered.places == (1, 2, 0)
    ordered.load_state_dict(Ordered(torch.tensor([0, 2, 1])).state_dict())
    assert ordered.places == (0, 2, 1)


def test_a_network_that_knows_its_grid_writes_in_its_own_order_alone():
    spiral = spiral_out(2, 2)
    modern = lambda **grid: Autoregressive(ModernTransformer((3,) * 4, Width(8, 1, 2), **grid))  # noqa: E731
    for prior in (modern(grid=(2, 2), order=spiral), modern()):  # one that knows no grid goes with any order
        assert InOrder(prior, spiral)().event_shape == (4,)
    for prior, order in ((modern(grid=(2, 2), order=z_curve(2, 2)), spiral), (modern(grid=(2, 2)), spiral), (modern(order=spiral), z_curve(2, 2))):
        with pytest.raises(ValueError, match="ModernTransformer was built to write its grid in another order than this one"):
            InOrder(prior, order)
