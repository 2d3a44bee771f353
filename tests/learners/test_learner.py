"""What every learner has: a seed, a step, noise that follows from them, and a state that holds both."""

import torch

from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.posteriors.exact import Exact
from tests.scenarios import tiny_images, tiny_model

X = tiny_images(3)


class Nothing(Learner):
    """Yields one loss of no parameter."""

    def losses(self, model, batch):
        """Zero."""
        yield Loss("nothing", batch.x.sum() * 0, [])


def test_noise_is_a_function_of_seed_step_and_index():
    def drawn(seed: int, step: int, index: list[int]) -> torch.Tensor:
        learner = Nothing(Exact())
        learner.seed, learner.step = seed, step
        return learner.noise(Batch(X, index=torch.tensor(index))).uniform((2,), (3,))

    first = drawn(1, 2, [4, 5, 6])
    assert torch.equal(first, drawn(1, 2, [4, 5, 6]))
    assert torch.equal(first[:, [2, 0]], drawn(1, 2, [6, 4]))
    assert not any(torch.isclose(first, other).any() for other in (drawn(2, 2, [4, 5, 6]), drawn(1, 3, [4, 5, 6]), drawn(1, 2, [7, 8, 9])))


def test_update_moves_on_to_the_next_step_and_the_state_holds_seed_and_step():
    learner, other = Nothing(Exact()), Nothing(Exact())
    learner.seed = 5
    learner.update(tiny_model(), {})
    learner.update(tiny_model(), {})
    other.load_state_dict(learner.state_dict())
    assert (other.seed, other.step) == (5, 2)


def test_trainable_lists_each_parameter_once_and_leaves_out_the_frozen():
    model = tiny_model()
    model.codebook.weight.requires_grad_(False)
    given = trainable(model, model.decoder)
    assert {id(p) for p in given} == {id(p) for p in model.decoder.parameters()}
    assert len(given) == len(list(model.decoder.parameters()))
