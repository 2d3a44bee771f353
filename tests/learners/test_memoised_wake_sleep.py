"""Memoised wake-sleep: with all codes in the memory it is exact EM; with some, it follows the sum of p(x, z) over them."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.enumeration import all_codes
from latentcomp.learners.memoised_wake_sleep import MemoisedWakeSleep
from latentcomp.phases.behaviour import Exploring
from latentcomp.phases.e_step import Truncated
from latentcomp.phases.m_step import Remembered
from latentcomp.phases.replay import Memory
from latentcomp.phases.schedule import Together
from latentcomp.train import fit
from tests.learners.contract import adam
from tests.learners.tuples import NO_NOISE, gradient, log_q_table
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)
CODES = all_codes((3, 3))


def with_memory(model, codes: int) -> MemoisedWakeSleep:
    """A learner that remembers the best codes of each image, and the rows of the list of all codes that they are."""
    memory = Memory(2, 2, codes).double()
    memory.update(torch.arange(2), CODES.expand(2, -1, -1), brute_force_log_joint(model, X).detach())
    return MemoisedWakeSleep(posterior("prefix_mlp"), memory, schedule=Together())


def test_with_all_codes_in_the_memory_it_is_exact_em_and_exact_wake_phi():
    """Without any noise, although q's proposals repeat codes that the memory has."""
    model = tiny_model(learned_prior=True)
    learner = with_memory(model, 9)
    (loss,) = learner.losses(model, Batch(X))
    log_joint = brute_force_log_joint(model, X)
    forward = -(log_joint.detach().softmax(-1) * log_q_table(learner.posterior(model, X))).sum(-1).mean()
    everything = [*model.parameters(), *learner.parameters()]
    torch.testing.assert_close(gradient(loss.value, everything), gradient(forward - log_joint.logsumexp(-1).mean(), everything))


def test_the_m_step_follows_the_sum_over_the_distinct_codes_at_hand():
    model = tiny_model(learned_prior=True)
    rows = torch.tensor([[0, 4, 4, 7], [2, 2, 2, 8]])  # of each image, some twice
    loss = Remembered(weighted=True)(model, posterior("factorised")(model, X), Batch(X, z=CODES[rows].movedim(1, 0)), NO_NOISE)
    log_joint = brute_force_log_joint(model, X)
    sums = torch.stack([log_joint[b, sorted(set(row))].logsumexp(0) for b, row in enumerate(rows.tolist())])
    theta = list(model.parameters())
    torch.testing.assert_close(gradient(loss, theta), gradient(-sums.mean(), theta))
    assert (sums < log_joint.logsumexp(-1)).all()


def test_the_truncated_cross_entropy_is_a_sum_over_the_distinct_codes():
    model, rows = tiny_model(), torch.tensor([[0, 4, 4, 7], [2, 2, 2, 8]])
    q, log_joint = posterior("prefix_mlp")(model, X), brute_force_log_joint(model, X).detach()
    loss, _ = Truncated().on_codes(q, CODES[rows].movedim(1, 0), log_joint.gather(1, rows).T, lambda log_q: log_q)
    wanted = []
    for b, row in enumerate(rows.tolist()):
        kept = sorted(set(row))
        wanted.append((log_joint[b, kept].softmax(0) * log_q_table(q)[b, kept]).sum())
    torch.testing.assert_close(loss, -torch.stack(wanted).mean())
    assert not torch.isclose(loss, Truncated()(q, log_q_table(q).gather(1, rows).T, log_joint.gather(1, rows).T, log_joint.gather(1, rows).T))


def test_the_sum_over_the_memory_grows_with_each_visit_while_theta_stands_still():
    model, learner = tiny_model(), MemoisedWakeSleep(posterior("prefix_mlp"), Memory(2, 2, 4), Exploring(2, 0.5)).double()
    optimizer = torch.optim.Adam([{"params": model.parameters(), "lr": 0.0}, {"params": learner.parameters(), "lr": 1e-2}])
    memory, sums = learner.behaviour.behaviours[1].memory, []
    for _ in fit(model, learner, [Batch(X)] * 30, optimizer):
        sums.append(memory.scores.logsumexp(-1))
    assert (torch.stack(sums).diff(dim=0) >= -1e-12).all()
    best = brute_force_log_joint(model, X).topk(4, -1).values.detach()
    torch.testing.assert_close(memory.scores, best)


def test_an_m_step_without_codes_is_refused():
    with pytest.raises(ValueError, match="Remembered learns from the codes that a behaviour found, and the batch has none"):
        Remembered()(tiny_model(), posterior("factorised")(tiny_model(), X), Batch(X), NO_NOISE)
    list(fit(model := tiny_model(), learner := with_memory(tiny_model(), 2), [Batch(X)], adam(model, learner)))
