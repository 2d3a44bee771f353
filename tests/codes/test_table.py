"""What a table has beyond the contract: dependent sites, the true mode, exploration over whole sequences."""

import pytest
import torch

from latentcomp.codes.table import TableCodes
from latentcomp.enumeration import all_codes

CARDINALITIES = (2, 3, 4)
LOGITS = 2 * torch.randn(3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_log_prob_is_the_normalised_entry_of_the_sequence():
    expected = LOGITS.exp() / LOGITS.exp().sum(-1, keepdim=True)
    for m, z in enumerate(all_codes(CARDINALITIES)):
        torch.testing.assert_close(TableCodes(LOGITS, CARDINALITIES).log_prob(z.expand(3, 3)).exp(), expected[:, m])


def test_mode_is_the_best_sequence_where_the_greedy_one_is_another():
    """Site 1 is 0 with probability 0.6, but the best sequence, with 0.4, begins with 1."""
    q = TableCodes(torch.tensor([0.3, 0.3, 0.4, 0.0]).log(), (2, 2))
    assert q.mode.tolist() == [1, 0]


def test_explore_flattens_and_mixes_whole_sequences():
    p = LOGITS.exp() ** (1 / 2.5)
    expected = 0.8 * p / p.sum(-1, keepdim=True) + 0.2 / 24
    torch.testing.assert_close(TableCodes(LOGITS, CARDINALITIES).explore(0.2, 2.5).table().exp(), expected)


def test_steps_of_impossible_sequences_still_sum_to_the_log_probability():
    logits = torch.tensor([-torch.inf, -torch.inf, 0.0, 1.0])
    q, z = TableCodes(logits, (2, 2)), all_codes((2, 2))
    torch.testing.assert_close(q.log_prob_steps(z).sum(-1), q.log_prob(z))
    assert q.sample((500,))[:, 0].eq(1).all()


def test_a_table_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) has 24 entries, not 23"):
        TableCodes(LOGITS[:, 1:], CARDINALITIES)
