"""A walk over distinct prefixes draws what a walk over samples draws, and computes less."""

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.ordered import OrderedCodes
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.grid import Ordered
from latentcomp.noise import Noise
from tests.codes.families import FAMILIES, build, contexts, network

CARDINALITIES, B, M = (2, 3, 4, 2), 3, 200
NETWORKS = ("prefix_mlp", "transformer")


def noise(seed: int = 0) -> Noise:
    return Noise(seed, 0, torch.arange(B))


@pytest.mark.parametrize("family", FAMILIES)
def test_many_samples_are_those_of_a_plain_call(family):
    q = build(family, CARDINALITIES, contexts())
    for made, expected in zip(q.sample_often_and_log_prob(M, noise()), q.sample_and_log_prob((M,), noise()), strict=True):
        assert made.shape == expected.shape
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("family", NETWORKS)
@pytest.mark.parametrize("temperature", [0.02, 1.0, 50.0])
@pytest.mark.parametrize("samples", [1, 7, M])
def test_so_they_are_of_a_peaked_and_of_a_flat_distribution(family, temperature, samples):
    """With few and with many prefixes, which end the sharing at once, later or never."""
    q = build(family, CARDINALITIES, contexts()).explore(0.1, temperature)
    for made, expected in zip(q.sample_often_and_log_prob(samples, noise(1)), q.sample_and_log_prob((samples,), noise(1)), strict=True):
        torch.testing.assert_close(made, expected)


def test_so_they_are_without_a_context_truncated_and_in_another_order():
    written = TruncatedCodes(network("transformer", (4,) * 4), contexts(), top_k=2)
    alone = AutoregressiveCodes(network("prefix_mlp", CARDINALITIES, 0))
    for q in (alone, written, OrderedCodes(written, Ordered(torch.tensor([2, 0, 3, 1])))):
        keys = Noise(2, 0, torch.arange(M)) if q is alone else noise(2)
        again = Noise(2, 0, torch.arange(M)) if q is alone else noise(2)
        for made, expected in zip(q.sample_often_and_log_prob(M, keys), q.sample_and_log_prob((M,), again), strict=True):
            torch.testing.assert_close(made, expected)


@pytest.mark.parametrize("family", NETWORKS)
def test_a_prefix_of_a_datum_is_computed_once(family, monkeypatch):
    """Rows that the network is asked for: at each site as many as there are distinct (datum, prefix) among the samples, as long as those are few."""
    made, rows = network(family, CARDINALITIES), []
    q, advance = AutoregressiveCodes(made, contexts(), temperature=0.5), made.advance
    monkeypatch.setattr(made, "advance", lambda cache, site, z: rows.append(advance(cache, site, z)) or rows[-1])
    z, _ = q.sample_often_and_log_prob(M, noise())
    distinct = [len({(b, *codes[:site]) for codes_of_all in z.tolist() for b, codes in enumerate(codes_of_all)}) for site in range(len(CARDINALITIES))]
    assert [len(logits) for logits in rows] == distinct
    assert max(distinct) < M * B / 2
