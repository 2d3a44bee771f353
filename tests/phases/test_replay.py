"""Memories of codes, against a dictionary of each datum's best; and what is proposed from them."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.enumeration import all_codes
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Exploring, Mixed
from latentcomp.phases.e_step import LogVariance
from latentcomp.phases.replay import Memory, Replay
from latentcomp.train import fit
from tests.frequencies import assert_frequencies, positions
from tests.learners.contract import adam
from tests.scenarios import posterior, tiny_images, tiny_model

X = tiny_images(3)


def test_a_memory_keeps_the_best_distinct_codes_with_their_latest_scores():
    """Against a dictionary that is told the same: whatever came last for a code counts."""
    memory, generator = Memory(4, 3, 5).double(), torch.Generator().manual_seed(0)
    oracle: list[dict[tuple, float]] = [{} for _ in range(4)]
    for _ in range(30):
        positions = torch.randperm(4, generator=generator)[:2]
        z = torch.randint(3, (2, 4, 3), generator=generator)
        table = torch.rand(27, generator=generator).double()  # a score for each code, so that a repeated one has one score
        scores = table[(z * torch.tensor([9, 3, 1])).sum(-1)]
        memory.update(positions, z, scores)
        for row, position in enumerate(positions.tolist()):
            known = oracle[position] | {tuple(code): float(score) for code, score in zip(z[row].tolist(), scores[row], strict=True)}
            oracle[position] = dict(sorted(known.items(), key=lambda item: -item[1])[:5])
        for position, known in enumerate(oracle):
            codes, scores = (row[0] for row in memory.recall(torch.tensor([position])))
            kept = [(tuple(code), float(score)) for code, score in zip(codes.tolist(), scores, strict=True) if score > -torch.inf]
            assert kept == list(known.items())


def test_duplicates_do_not_fill_a_memory():
    memory = Memory(1, 2, 3)
    memory.update(torch.tensor([0]), torch.tensor([[[1, 2], [1, 2], [0, 0], [1, 2]]]), torch.tensor([[-3.0, -3.0, -5.0, -3.0]]))
    codes, scores = memory.recall(torch.tensor([0]))
    assert scores.tolist() == [[-3.0, -5.0, -torch.inf]]
    assert codes[0, :2].tolist() == [[1, 2], [0, 0]]


@pytest.mark.parametrize("index", [[0, 3], [-1, 0]])
def test_an_index_outside_the_memory_is_refused(index):
    learner = GFlowNetEM(posterior("factorised"), LogVariance(), Replay(Memory(3, 2)))
    with pytest.raises(ValueError, match=r"positions in the data set must lie in 0..2, for Memory was built with size=3.*whole training set; got"):
        next(learner.losses(tiny_model(), Batch(X[:2], index=torch.tensor(index))))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="keeps 2 codes of each datum, fewer than samples=3"):
        Replay(Memory(5, 2, 2), 3)
    with pytest.raises(ValueError, match="at least one datum, site and place, got size=0"):
        Memory(0, 2)
    with pytest.raises(ValueError, match="Memory was built for sites=4, the model has 2"):
        next(GFlowNetEM(posterior("factorised"), LogVariance(), Replay(Memory(3, 4))).losses(tiny_model(), Batch(X)))


def filled(memory: Memory, codes: int) -> torch.Tensor:
    """The same codes for all three images, the first ``codes`` of the list of all."""
    z = all_codes((3, 3))[:codes]
    memory.update(torch.arange(3), z.expand(3, -1, -1), torch.arange(codes).expand(3, -1) - 9.0)
    return z


def test_replay_draws_uniformly_without_repetition_from_what_is_remembered():
    """Error rate: ``frequencies.LEVEL`` = 1e-6 for each place."""
    model, memory = tiny_model(), Memory(3, 2, 6)
    filled(memory, 4)
    rows, draws = torch.zeros(3000, dtype=torch.long), torch.arange(3000)
    q = posterior("factorised")(model, X[:1].expand(3000, -1, -1, -1))
    z, b = Replay(memory, 3)(model, q, Batch(X[:1].expand(3000, -1, -1, -1), index=rows), Noise(0, 0, draws))
    drawn = positions(z, (3, 3))
    assert b is None
    assert all(len(set(row)) == 3 for row in drawn.T.tolist())
    for place in drawn:
        assert_frequencies(place, torch.tensor([0.25] * 4 + [0.0] * 5))


def test_where_the_memory_is_short_samples_of_q_stand_in():
    """Error rate: ``frequencies.LEVEL`` = 1e-6. Two codes are remembered and three asked for: the third is q's."""
    model, memory = tiny_model(), Memory(3, 2, 6)
    filled(memory, 2)
    x = X[:1].expand(3000, -1, -1, -1)
    q = posterior("factorised")(model, x)
    z, _ = Replay(memory, 3)(model, q, Batch(x, index=torch.zeros(3000, dtype=torch.long)), Noise(0, 0, torch.arange(3000)))
    drawn = positions(z, (3, 3))
    assert (drawn[:2].sort(0).values == torch.tensor([[0], [1]])).all()
    assert_frequencies(drawn[2], q.table()[0].exp())


def test_a_run_fills_the_memory_with_the_best_codes_and_their_scores():
    """As many places as codes: in the end the memory is the table of log p(x, z), sorted; theta stands still."""
    model, memory = tiny_model(), Memory(3, 2, 9)
    learner = GFlowNetEM(posterior("prefix_mlp"), LogVariance(), Mixed([Exploring(3, 0.9), Replay(memory, 3)])).double()
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 0.0}, {"params": learner.parameters(), "lr": 1e-2}])
    for _ in fit(model, learner, [Batch(X)] * 60, optimizer):
        pass
    codes, scores = memory.recall(torch.arange(3))
    torch.testing.assert_close(model.log_joint(X, codes.movedim(1, 0)).T.detach(), scores)
    assert all(len({tuple(code) for code in row}) == 9 for row in codes.tolist())
    assert (scores.diff(dim=1) <= 0).all()


def test_the_memory_belongs_to_the_state_of_the_learner():
    model, learner = tiny_model(), GFlowNetEM(posterior("factorised"), LogVariance(), Replay(Memory(3, 2))).double()
    list(fit(model, learner, [Batch(X)] * 2, adam(model, learner)))
    assert {"behaviour.memory.codes", "behaviour.memory.scores"} <= learner.state_dict().keys()
    assert learner.behaviour.memory.scores[:, 0].isfinite().all()
