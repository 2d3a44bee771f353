"""Nearest images against a search by hand, whatever the batches; copies are told from new images."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latentcomp.batch import Batch
from latentcomp.evaluate.neighbours import nearest, novelty, small_pixels


def images(n, seed):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def batches(x, size):
    return [Batch(x[rows], index=rows + 100) for rows in torch.arange(len(x)).split(size)]


@pytest.mark.parametrize("size", [1, 4, 30])
def test_against_a_search_by_hand(size):
    queries, x = images(5, 0), images(30, 1)
    found = nearest(queries, batches(x, size), 3)
    means = lambda part: part.view(len(part), 3, 2, 4, 2, 4).mean((3, 5)).flatten(1)  # noqa: E731
    distances = (means(queries)[:, None] - means(x)[None]).square().sum(-1).sqrt()
    expected = distances.sort(1)
    assert torch.allclose(found.distances, expected.values[:, :3], atol=1e-5)
    assert torch.equal(found.positions, expected.indices[:, :3] + 100)
    assert torch.equal(found.images, x[expected.indices[:, :3]])


def test_no_image_is_copied_for_each_query():
    """Of a batch's images only the k nearest are gathered: memory is that of Q k images, not of Q times the batch."""

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    Largest.bytes = max(Largest.bytes, tensor.untyped_storage().nbytes())
            return made

    queries, k = images(20, 0), 2
    given = batches(images(300, 1), 100)
    with Largest():
        nearest(queries, given, k)
    one = 3 * 8 * 8 * 4
    assert Largest.bytes <= max(2 * k * len(queries), 300) * one  # batches share the storage of all 300


def test_own_features_decide():
    found = nearest(images(1, 0), batches(torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)]), 1), 1, lambda x: -x.amax((1, 2, 3)).unsqueeze(1))
    assert found.positions.item() == 101


def test_copies_are_not_new():
    x = images(40, 1)
    held_out = nearest(images(10, 2), batches(x, 8), 1)
    copies, fresh = (nearest(part, batches(x, 8), 1) for part in (x[:10] + 0.001, images(10, 3)))
    assert novelty(copies, held_out).value < 0.02
    assert novelty(fresh, held_out).value == pytest.approx(1, abs=0.2)


def test_too_few_are_refused():
    with pytest.raises(ValueError, match="3 neighbours were sought among 2 images"):
        nearest(images(1, 0), batches(images(2, 1), 1))


def test_small_pixels_of_tiny_images():
    assert small_pixels(torch.ones(2, 1, 2, 2)).tolist() == [[1.0], [1.0]]
