"""GPT over a condition and codes. That it computes the published function is tested in tests/taming."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn.gpt import GPT, Dropout, Size
from tests.codes.families import stirred

R = torch.tensor([[1, 5, 2], [0, 4, 4]])
Z = torch.tensor([[0, 3, 2, 1], [2, 2, 0, 3]])


def network(visible: int = 0, start: int | None = None, dropout: Dropout | None = None) -> GPT:
    """Four sites of four codes, six codes in all, seven positions; in float64."""
    return stirred(lambda: GPT((4,) * 4, Size(6, 7, 8, 2, 2), dropout or Dropout(), visible, start)).eval()


@pytest.mark.parametrize(
    ("size", "count"),
    [(Size(1024, 512, 1024, 24, 16), 304_932_864), (Size(16384, 257, 1536, 48, 16), 1_410_642_432), (Size(8192, 348, 1408, 40, 16), 975_876_352)],
)
def test_the_published_sizes(size, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in GPT((size.vocabulary,) * 256, size).parameters()) == count


@pytest.mark.parametrize("visible", [0, 2, 3])
def test_logits_depend_on_the_condition_and_on_what_came_before(visible):
    gpt = network(visible)
    logits = gpt.logits(Z, R)
    assert logits.shape == (2, 4, 6)
    for site in range(4):
        changed = Z.clone()
        changed[:, site] = (Z[:, site] + 1) % 4
        moved = (gpt.logits(changed, R) - logits).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [i > site for i in range(4)]
    for position in range(3):
        changed = R.clone()
        changed[:, position] = (R[:, position] + 1) % 6
        assert ((gpt.logits(Z, changed) - logits).abs().amax((0, 2)) > 1e-9).all()


def test_visible_codes_see_each_other():
    """Only then can the first code of the condition be told what the last one is."""
    gpt, other = network(3), network()
    other.load_state_dict(gpt.state_dict())
    assert not torch.allclose(gpt.logits(Z, R), other.logits(Z, R))
    with pytest.raises(ValueError, match="first 3 codes see each other, but the condition has only 2"):
        gpt.logits(Z, R[:, :2])


@pytest.mark.parametrize("visible", [0, 3])
@torch.no_grad()
def test_one_site_at_a_time_is_all_at_once(visible):
    gpt = network(visible)
    cache, rows = gpt.start(6, R), Z.repeat(3, 1)  # row r belongs to condition r modulo two
    steps = [gpt.advance(cache, site, rows[:, site - 1] if site else None) for site in range(4)]
    expected = gpt(rows.view(3, 2, 4), R).view(6, 4, 4)
    assert (torch.stack(steps, 1) - expected).abs().max() < 1e-10


def test_as_a_distribution_it_sums_to_one_and_scores_its_draws():
    q = AutoregressiveCodes(network(), R)
    torch.testing.assert_close(q.table().logsumexp(-1), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    z, log_q = q.sample_and_log_prob((3,))
    torch.testing.assert_close(q.log_prob(z), log_q)
    assert z.max() < 4
    with pytest.raises(TypeError, match="use CausalTransformer"):
        q.features(z)


def test_without_a_condition_the_start_code_stands_for_it():
    gpt = network(start=5)
    q = AutoregressiveCodes(gpt)
    assert q.batch_shape == ()
    torch.testing.assert_close(q.log_prob(Z), AutoregressiveCodes(gpt, torch.full((2, 1), 5)).log_prob(Z))
    assert q.sample((7,)).shape == (7, 4)
    with pytest.raises(ValueError, match=r"trained with a condition: pass its codes"):
        AutoregressiveCodes(network()).sample((2,))


def test_other_lengths_share_the_weights():
    gpt = network()
    short = gpt.of_length(2)
    assert gpt.cardinalities == (4,) * 4
    assert short.cardinalities == (4, 4)
    assert short.head.weight is gpt.head.weight
    assert torch.equal(short(Z[:, :2], R), gpt(Z, R)[:, :2])


def test_dropout_acts_in_training_alone_and_in_three_places():
    for rates in (Dropout(embedding=0.5), Dropout(residual=0.5), Dropout(attention=0.5)):
        gpt = network(dropout=rates)
        assert torch.equal(gpt(Z, R), gpt(Z, R))
        gpt.train()
        assert not torch.equal(gpt(Z, R), gpt(Z, R))


def test_it_learns():
    gpt = network().train()
    optimizer = torch.optim.Adam(gpt.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(gpt(Z, R).flatten(0, 1), Z.flatten())
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="same K <= V=6 at all sites"):
        GPT((4, 3), Size(6, 7, 8, 1, 2))
    with pytest.raises(ValueError, match="same K <= V=6 at all sites"):
        GPT((7, 7), Size(6, 7, 8, 1, 2))
    with pytest.raises(ValueError, match="need as many positions or more; the network has 7"):
        GPT((4,) * 8, Size(6, 7, 8, 1, 2))
    with pytest.raises(ValueError, match=r"width \(8\) must be a multiple of the number of heads \(3\)"):
        GPT((4,) * 4, Size(6, 7, 8, 1, 3))
    with pytest.raises(ValueError, match="reads at most 7 codes, those of the condition among them; got 9"):
        network().logits(Z, R.repeat(1, 2))
    with pytest.raises(ValueError, match=r"vocabulary 0..5; got values from 0 to 6"):
        network().logits(Z, R + 1)
