"""Starts: k-means of the first outputs against an independent one and by hand, whatever the batch's split; who restarts where outputs are few."""

import copy

import pytest
import torch
from sklearn.cluster import KMeans as SklearnKMeans

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.residual_vq import ResidualVQ
from latentcomp.codebook.space import Euclidean, Sphere
from latentcomp.codebook.start import KMeans, SmallUniform
from tests.codebook.test_codebook import rows_of

BOTH = pytest.mark.parametrize("kind", [Codebook, EMACodebook])
B, N, K, D = 20, 3, 7, 2
INDEX = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:B]


def outputs(rows: int = B) -> torch.Tensor:
    return torch.randn(rows, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(kind: type[Codebook] = Codebook, **settings) -> Codebook:
    torch.manual_seed(0)
    return kind(K, D, start=KMeans(), **settings).double()


def begun(codebook: Codebook, h: torch.Tensor, seed: int = 0, step: int = 0) -> Codebook:
    """The codebook after the first step."""
    codebook.update(codebook.statistics(h, codebook.nearest(h), INDEX[: len(h)]), seed, step)
    return codebook


def test_lloyd_s_iterations_are_those_of_scikit_learn():
    points = outputs().flatten(0, 1)
    means, counts = KMeans(5).centres(points, K, Euclidean())
    theirs = SklearnKMeans(K, init=points[:K].numpy(), n_init=1, max_iter=5, tol=0, algorithm="lloyd").fit(points.numpy())
    torch.testing.assert_close(means, torch.from_numpy(theirs.cluster_centers_))
    assert counts.tolist() == [(theirs.predict(points.numpy()) == k).sum() for k in range(K)]


def test_on_the_sphere_means_are_unit_vectors():
    points = Sphere()(outputs().flatten(0, 1))
    means, _ = KMeans().centres(points, K, Sphere())
    torch.testing.assert_close(means.norm(dim=-1), torch.ones(K).double())
    z = (points @ means.T).argmax(-1)
    for k in range(K):
        total = points[z == k].sum(0)
        torch.testing.assert_close(means[k], total / total.norm())


@BOTH
def test_the_first_step_puts_codes_where_outputs_lie(kind):
    codebook, h = begun(made(kind), outputs()), outputs()
    assert not codebook.waits
    assert not codebook.waiting
    z = codebook.nearest(h).flatten()
    for k in range(K):  # a fixed point of Lloyd's algorithm, which ten iterations reach on so few points
        torch.testing.assert_close(codebook.weight[k], h.flatten(0, 1)[z == k].mean(0))
    if kind is EMACodebook:
        torch.testing.assert_close(codebook.counts, torch.bincount(z, minlength=K).double())
        torch.testing.assert_close(codebook.sums, codebook.weight * codebook.counts.unsqueeze(-1))


@BOTH
@pytest.mark.parametrize("restart", [0.0, 0.5])
def test_the_start_comes_once_and_survives_a_checkpoint(kind, restart):
    codebook = begun(made(kind, restart=restart), outputs())
    other = made(kind, restart=restart)
    assert other.waits
    other.load_state_dict(codebook.state_dict())
    before = other.weight.clone()
    assert not other.waits
    h = outputs() + 10
    other.update(other.statistics(h, torch.zeros(B, N, dtype=torch.long), INDEX), 0, 1)
    torch.testing.assert_close(other.weight[1:], before[1:])
    again = made(kind)
    again.load_state_dict(made(kind).state_dict())
    assert again.waits
    assert not copy.deepcopy(other).waits


@BOTH
def test_the_start_is_a_function_of_seed_step_and_examples(kind):
    h, z = outputs(), torch.zeros(B, N, dtype=torch.long)
    weights = []
    for parts in ([range(B)], [range(7), range(7, B)], [list(reversed(range(5, B))), range(5)]):
        codebook = made(kind)
        rows = rows_of([codebook.statistics(h[list(part)], z[list(part)], INDEX[list(part)]) for part in parts])
        codebook.update(rows, seed=7, step=0)
        weights.append(codebook.weight)
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])
    assert not torch.equal(weights[0], begun(made(kind), h, seed=8).weight)


def test_too_few_outputs_are_refused_unless_dead_codes_restart():
    h = outputs(2)  # six vectors for seven codes
    with pytest.raises(ValueError, match=r"at least K=7 encoder outputs; the first step has 6\. Take larger batches, or restart"):
        begun(made(), h)
    codebook = begun(made(restart=0.5), h)
    assert len(codebook.weight.unique(dim=0)) == 6


def test_another_start_waits_for_nothing_and_has_nothing_to_begin():
    codebook = Codebook(K, D, start=SmallUniform())
    assert codebook.weight.abs().max() <= 1 / K
    assert codebook.statistics(outputs().float(), torch.zeros(B, N, dtype=torch.long), INDEX) == {}
    assert "waiting" not in codebook.state_dict()
    with pytest.raises(TypeError, match=r"a codebook with the start SmallUniform has begun without outputs: give it one that waits for them, such as KMeans"):
        codebook.begin(outputs().float(), INDEX, 0, 0)
    with pytest.raises(ValueError, match="0 or more iterations, got -1"):
        KMeans(-1)


def test_residual_codebooks_begin_on_what_those_before_them_leave_over():
    torch.manual_seed(0)
    codebook, h = ResidualVQ([Codebook(K, D, start=KMeans()) for _ in range(2)]).double(), outputs()
    codebook.update(codebook.statistics(h, codebook.nearest(h), INDEX), 0, 0)
    first, second = codebook.books
    left = (h - first(first.nearest(h))).flatten(0, 1)
    z = second.nearest(left)
    for k in range(K):
        torch.testing.assert_close(second.weight[k], left[z == k].mean(0))
    assert codebook.statistics(h, codebook.nearest(h), INDEX) == {}


@BOTH
def test_of_more_codes_than_outputs_no_two_restart_on_one(kind):
    torch.manual_seed(0)
    codebook, h = kind(11, D, restart=0.9).double(), outputs(2)[:, :2]  # four outputs a step
    codebook.usage.zero_()
    first = codebook.weight.clone()
    for step in range(3):  # three turns: codes 0-3, 4-7, 8-10
        codebook.update(codebook.statistics(h, torch.full((2, 2), 10), INDEX[:2]), 0, step)
        moved = ~torch.isclose(codebook.weight, first).all(-1)
        assert moved[:10].tolist() == [k // 4 <= step for k in range(10)]
        block = codebook.weight[4 * step : 4 * step + 4]
        assert len(block.unique(dim=0)) == len(block)
