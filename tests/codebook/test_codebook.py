"""Codebooks against loops written out: nearest codes, running means, restarts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.lookup import squared_distances

BOTH = pytest.mark.parametrize("kind", [Codebook, EMACodebook])
B, N, K, D = 6, 2, 4, 3


def outputs(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind: type[Codebook] = Codebook, **settings) -> Codebook:
    torch.manual_seed(0)
    return kind(K, D, **settings).double()


def rows_of(statistics: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The rows of several micro-batches below each other, as the loop hands them to ``update``."""
    return {key: torch.cat([part[key] for part in statistics]) for key in statistics[0]}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(leading=st.lists(st.integers(0, 4), max_size=3), k=st.integers(1, 9), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_nearest_is_a_nearest_code(leading, k, d, seed):
    torch.manual_seed(seed)
    codebook, h = Codebook(k, d), torch.randn(*leading, d)
    by_hand = (h.double().unsqueeze(-2) - codebook.weight.double()).square().sum(-1)
    z = codebook.nearest(h)
    assert z.shape == tuple(leading)
    torch.testing.assert_close(squared_distances(h, codebook.weight).double(), by_hand, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(by_hand.gather(-1, z.unsqueeze(-1)).squeeze(-1), by_hand.min(-1).values, atol=1e-4, rtol=1e-4)


def test_distances_are_computed_in_float32_under_autocast_too():
    """In bfloat16 the product of 10.1 and 10.1 is wrong by half a unit."""
    points = torch.tensor([[10.0], [10.1]])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(squared_distances(points, points), torch.tensor([[0.0, 0.01], [0.01, 0.0]]), atol=1e-4, rtol=0)


def test_lookup_mix_and_their_gradients():
    codebook, z = made(), torch.tensor([[0, 2], [2, 2]])
    torch.testing.assert_close(codebook(z), torch.stack([torch.stack([codebook.weight[k] for k in row]) for row in z]))
    torch.testing.assert_close(codebook.mix(torch.nn.functional.one_hot(z, K).double()), codebook(z))
    y = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    torch.testing.assert_close(codebook.mix(y), sum(y[k] * codebook.weight[k] for k in range(K)))
    (gradient,) = torch.autograd.grad(codebook(z).sum(), codebook.weight)
    assert gradient.tolist() == [[1] * D, [0] * D, [3] * D, [0] * D]
    assert not EMACodebook(K, D)(z).requires_grad


@pytest.mark.parametrize("z", [[0, 4], [-1, 3]])
def test_codes_out_of_range_are_refused_by_name(z):
    with pytest.raises(ValueError, match=rf"0\.\.3 \(K=4\); got values from {z[0]} to {z[1]}.*same K"):
        made()(torch.tensor(z))


def test_ema_update_is_the_formula():
    codebook = made(EMACodebook, decay=0.9)
    n, m = [1.0] * K, [codebook.weight[k].clone() for k in range(K)]
    for step in range(3):
        h = outputs(step)
        z = codebook.nearest(h)
        codebook.update(codebook.statistics(h, z, torch.arange(B)), 0, step)
        for k in range(K):
            assigned = [h[b, i] for b in range(B) for i in range(N) if z[b, i] == k]
            n[k] = 0.9 * n[k] + 0.1 * len(assigned)
            m[k] = 0.9 * m[k] + 0.1 * sum(assigned, torch.zeros(D, dtype=torch.float64))
            torch.testing.assert_close(codebook.weight[k], m[k] / n[k])


def test_a_code_that_is_long_unused_keeps_its_vector():
    codebook, h = made(EMACodebook, decay=0.1), outputs()
    kept = codebook.weight[3].clone()
    for step in range(10):
        codebook.update(codebook.statistics(h, torch.zeros(B, N, dtype=torch.long), torch.arange(B)), 0, step)
    torch.testing.assert_close(codebook.weight[3], kept)
    torch.testing.assert_close(codebook.weight[0], h.mean((0, 1)))


@BOTH
@pytest.mark.parametrize("restart", [0.0, 0.5])
def test_the_split_and_the_order_of_rows_change_nothing(kind, restart):
    h, index, z = outputs(), torch.tensor([3, 1, 4, 15, 9, 2]), torch.zeros(B, N, dtype=torch.long)
    codebooks = []
    for parts in ([range(6)], [range(2), range(2, 6)], [[5, 0, 3], [2, 4, 1]]):
        codebook = made(kind, restart=restart)
        codebook.usage.fill_(0.5)  # one step unused, and a code is dead
        statistics = [codebook.statistics(h[list(part)], z[list(part)], index[list(part)]) for part in parts]
        codebook.update(rows_of(statistics), seed=7, step=2)
        codebooks.append(codebook.state_dict())
    for other in codebooks[1:]:
        for key, value in codebooks[0].items():
            torch.testing.assert_close(other[key], value)


@BOTH
def test_restart_moves_dead_codes_alone_and_onto_encoder_outputs(kind):
    codebook, h = made(kind, restart=0.5), outputs()
    z = torch.tensor([[0, 1]] * B)  # codes 2 and 3 are never used
    first = codebook.weight.clone()
    codebook.update(codebook.statistics(h, z, torch.arange(B)), 0, 0)
    torch.testing.assert_close(codebook.weight[2:], first[2:])  # a grace period
    for step in range(1, 100):
        before = codebook.weight.clone()
        codebook.update(codebook.statistics(h, z, torch.arange(B)), 0, step)
        moved = ~torch.isclose(codebook.weight, before).all(-1)
        if moved[2:].all():
            break
    assert moved.tolist()[2:] == [True, True]
    assert kind is EMACodebook or torch.equal(codebook.weight[:2], first[:2])
    on_outputs = (codebook.weight.unsqueeze(1) == h.flatten(0, 1)).all(-1).any(1)
    assert on_outputs.tolist() == [False, False, True, True]
    assert not torch.equal(codebook.weight[2], codebook.weight[3])
    assert 0.99 ** (step + 1) * 2 < 1 <= 0.99**step * 2  # the count starts at twice the threshold and decays
    torch.testing.assert_close(codebook.usage[2:], torch.ones(2, dtype=torch.float64))
    moved_to = codebook.weight[2:].clone()
    codebook.update(codebook.statistics(h, z, torch.arange(B)), 0, step + 1)
    torch.testing.assert_close(codebook.weight[2:], moved_to)  # and there they stay


@BOTH
@pytest.mark.parametrize(("codes", "batch"), [(4, 20), (4, 200), (40, 20), (40, 200)])
def test_a_share_means_the_same_whatever_the_codes_and_the_batch(kind, codes, batch):
    """Half of the codes have a fifth of the even use: dead by a share of 0.21, alive by one of 0.19."""
    counts = batch / codes * torch.tensor([0.2, 1.8], dtype=torch.float64).repeat_interleave(codes // 2)
    h = torch.randn(batch, 1, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = {"counts": counts[None], "sums": torch.zeros(1, codes, D, dtype=torch.float64), "h": h, "index": torch.arange(batch)}
    for share, dead in ((0.19, False), (0.21, True)):
        codebook, restarted = kind(codes, D, restart=share).double(), torch.zeros(codes, dtype=torch.bool)
        codebook.decay = 0.9
        codebook.usage.fill_(1.0)
        for step in range(60):
            before = codebook.usage.clone()
            codebook.update(rows, 0, step)
            restarted |= codebook.usage > before + 0.1
        assert restarted.tolist() == [dead] * (codes // 2) + [False] * (codes // 2)


@pytest.mark.parametrize("seeds", [((0, 0), (1, 0)), ((0, 0), (0, 1))], ids=["seed", "step"])
def test_which_outputs_win_depends_on_seed_and_step(seeds):
    weights = []
    for seed, step in seeds:
        codebook = made(restart=0.5)
        codebook.usage.zero_()
        codebook.update(codebook.statistics(outputs(), torch.zeros(B, N, dtype=torch.long), torch.arange(B)), seed, step)
        weights.append(codebook.weight)
    assert not torch.equal(*weights)


def test_without_restart_a_codebook_of_parameters_has_nothing_to_update():
    codebook = made()
    before = codebook.weight.clone()
    assert codebook.statistics(outputs(), torch.zeros(B, N, dtype=torch.long), torch.arange(B)) == {}
    codebook.update({}, 0, 0)
    assert torch.equal(codebook.weight, before)
