"""Every kind of batches: an order that a stop does not change, and shares that together are the batch."""

from itertools import chain, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latentcomp.batch import Batch
from latentcomp.data.shuffled import Shuffled


class Numbers(Shuffled):
    """Batches of nothing but numbers."""

    def __iter__(self):
        for update in range(self.start, self.updates):
            index = self.rows(update)
            yield Batch(index.double(), index=index)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 30), st.integers(0, 30), st.integers(1, 4))
def test_the_rest_and_the_shares_are_those_of_the_whole(examples, size, updates, done, count):
    size, done = min(size, examples), min(done, updates)
    whole = [batch.index.tolist() for batch in Numbers(examples, size, updates, 3, "numbers")]
    assert len(whole) == updates
    assert [batch.index.tolist() for batch in Numbers(examples, size, updates, 3, "numbers").after(done)] == whole[done:]
    if count <= size:
        parts = [[batch.index.tolist() for batch in Numbers(examples, size, updates, 3, "numbers").share(rank, count)] for rank in range(count)]
        assert [list(chain(*rows)) for rows in zip(*parts, strict=True)] == whole


def test_each_epoch_has_each_example_once_in_another_order():
    batches = Numbers(12, 4, 9, 0, "numbers")
    epochs = [torch.cat([batches.rows(update) for update in range(first, first + batches.per_epoch)]).tolist() for first in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert all(a != b for a, b in pairwise(epochs))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="between 1 and n=3 of the numbers, got size=4"):
        Numbers(3, 4, 1, 0, "numbers")
    batches = Numbers(3, 2, 5, 0, "numbers")
    with pytest.raises(ValueError, match="a run of 5 updates goes on .* got done=6"):
        batches.after(6)
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3 processes"):
        batches.share(0, 3)
