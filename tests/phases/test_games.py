"""The games: which loss each side descends, and where they are at peace."""

import pytest
import torch

from latentcomp import objectives
from latentcomp.phases.games import GAMES, Hinge, game

REAL, MADE = (torch.randn(4, 1, 2, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2))


@pytest.mark.parametrize("name", GAMES)
def test_each_side_s_gradient_has_its_sign(name):
    """The generator wants its logits up, the critic wants them down and those of data up."""
    played, real, made = game(name), REAL.clone().requires_grad_(), MADE.clone().requires_grad_()
    (up,) = torch.autograd.grad(played.generator(made), made)
    assert (up < 0).all()
    to_real, to_made = torch.autograd.grad(played.critic(real, made), (real, made))
    assert (to_real <= 0).all()
    assert (to_made >= 0).all()
    assert to_real.abs().sum() > 0
    assert to_made.abs().sum() > 0


@pytest.mark.parametrize(("name", "sides"), [
    ("hinge", (objectives.adversarial_loss, objectives.hinge_loss)),
    ("vanilla", (objectives.adversarial_loss, objectives.logistic_loss)),
    ("non_saturating", (objectives.non_saturating_loss, objectives.logistic_loss)),
    ("min_max", (objectives.saturating_loss, lambda real, made: -objectives.min_max_value(real, made))),
])  # fmt: skip
def test_the_losses_are_those_of_objectives(name, sides):
    generator, critic = sides
    assert torch.equal(game(name).generator(MADE), generator(MADE))
    assert torch.equal(game(name).critic(REAL, MADE), critic(REAL, MADE))


def test_in_the_zero_sum_game_one_side_s_gain_is_the_other_s_loss():
    played, made = game("min_max"), MADE.clone().requires_grad_()
    (generator,) = torch.autograd.grad(played.generator(made), made)
    (critic,) = torch.autograd.grad(played.critic(REAL, made), made)
    assert torch.equal(generator, -critic)
    assert [name for name in GAMES if game(name).zero_sum] == ["min_max"]


def test_a_game_of_one_s_own_passes_and_an_unknown_name_lists_the_known():
    own = Hinge()
    assert game(own) is own
    with pytest.raises(ValueError, match="there is no critic loss 'wasserstein'; known: hinge, vanilla, non_saturating, min_max"):
        game("wasserstein")
