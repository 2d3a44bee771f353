"""Truncated codes: top-k and top-p by hand, as a distribution that scores what it draws."""

import math

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.truncated import TruncatedCodes, top_k_logits, top_p_logits
from latentcomp.noise import Noise
from tests.codes.families import contexts, network

P = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])


def kept(logits: torch.Tensor) -> list[list[int]]:
    """The codes that are left in each row."""
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


@pytest.mark.parametrize(("k", "expected"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (100, [0, 1, 2, 3])])
def test_the_k_most_probable_stay(k, expected):
    left = top_k_logits(P.log(), k)
    assert kept(left)[0] == expected
    assert kept(left)[1] == [0, 1, 2, 3]  # equals stay together
    assert torch.equal(left[left.isfinite()], P.log()[left.isfinite()])


CUTS = [(1e-9, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])]


@pytest.mark.parametrize(("p", "expected"), CUTS)
def test_the_fewest_codes_that_reach_p_stay(p, expected):
    assert kept(top_p_logits(P.log(), p))[0] == expected


def tables(**settings) -> tuple[torch.Tensor, torch.Tensor]:
    """log q of all sequences, truncated and not."""
    made = network("transformer", (4, 4))
    return TruncatedCodes(made, contexts(), **settings).table(), AutoregressiveCodes(made, contexts(), temperature=settings.get("temperature", 1.0)).table()


def test_nothing_cut_is_the_distribution_itself():
    for settings in ({}, {"top_k": 4}, {"top_p": 1.0}, {"temperature": 0.7}, {"top_k": 4, "top_p": 1.0}):
        torch.testing.assert_close(*tables(**settings))


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_p": 0.6}, {"top_k": 3, "top_p": 0.8, "temperature": 1.5}])
def test_conditionals_are_cut_and_normalised(settings):
    cut, whole = (t.exp().view(-1, 4, 4) for t in tables(**settings))

    def truncated(p: torch.Tensor) -> torch.Tensor:
        log_p = top_k_logits(p.log(), settings["top_k"]) if "top_k" in settings else p.log()
        return (top_p_logits(log_p, settings["top_p"]) if "top_p" in settings else log_p).softmax(-1)

    first = whole.sum(2)
    torch.testing.assert_close(cut, truncated(first).unsqueeze(-1) * truncated(whole / first.unsqueeze(-1)))


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_p": 0.6}])
def test_what_it_draws_it_scores(settings):
    q = TruncatedCodes(network("transformer", (4, 4)), contexts(), **settings)
    z, log_q = q.sample_and_log_prob((200,), Noise(0, 0, torch.arange(3)))
    assert log_q.isfinite().all()
    torch.testing.assert_close(q.log_prob(z), log_q)
    assert (q.table() == -math.inf).any()
    assert torch.equal(q.mode, AutoregressiveCodes(network("transformer", (4, 4)), contexts()).mode)


def test_what_is_no_setting_is_refused():
    made = network("transformer", (4, 4))
    with pytest.raises(ValueError, match="top_k .* must be at least 1; got 0"):
        TruncatedCodes(made, contexts(), top_k=0)
    with pytest.raises(ValueError, match="top_k=5 codes cannot stay of V=4: pass V or fewer"):
        TruncatedCodes(made, contexts(), top_k=5)
    for p in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"top_p .* \(0, 1\]; got {p}"):
            TruncatedCodes(made, contexts(), top_p=p)
    with pytest.raises(ValueError, match="temperature must be positive"):
        TruncatedCodes(made, contexts(), temperature=-1.0)
    with pytest.raises(TypeError, match="a behaviour policy must reach every code"):
        TruncatedCodes(made, contexts(), top_k=2).explore(0.1)
