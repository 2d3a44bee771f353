"""Modules that remember how they were made: they still go where other modules go."""

import copy
import io
import pickle

import torch

from latentcomp.nn import ImageDecoder
from latentcomp.pretrained import built, description
from latentcomp.priors import Uniform


def test_a_described_module_is_pickled_copied_and_saved_whole():
    """As spawned workers and ``torch.save(model)`` need; the copies still know what they were made with."""
    for module in (Uniform(4, 8), ImageDecoder(4, 8, (16,), (1, 8, 8))):
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(stream, weights_only=False)):
            assert description(other) == description(module)
            assert type(built(description(other), {})) is type(module)
            assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


class Parent(Uniform):
    """A constructor that hands on what it makes of its own argument."""

    def __init__(self, side: int) -> None:
        super().__init__(side * side, 3)


class Child(Parent):
    """No constructor of its own."""


def test_the_outermost_constructor_is_the_one_that_is_remembered():
    for kind in (Parent, Child):
        assert description(pickle.loads(pickle.dumps(kind(2))))["arguments"] == {"side": 2}
