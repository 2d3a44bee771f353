"""Sequences that begin as given: the same draws as without, the same numbers with and without a cache."""

import pytest
import torch

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.distribution import inverse_cdf
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.pixelsnail import Depth, PixelSNAIL
from latentcomp.noise import Noise
from tests.codes.families import contexts, network, stirred

SITES, K = 6, 5
R = torch.tensor([[1, 6], [0, 3], [5, 5]])


def made(name: str) -> tuple[object, torch.Tensor | None]:
    """A network of six sites and a context for it."""
    return {
        "gpt": lambda: (stirred(lambda: GPT((K,) * SITES, Size(7, 7, 8, 2, 2), start=6)), R),
        "gpt, start code": lambda: (stirred(lambda: GPT((K,) * SITES, Size(7, 6, 8, 2, 2), start=6)), None),
        "gpt, visible": lambda: (stirred(lambda: GPT((K,) * SITES, Size(7, 7, 8, 2, 2), visible=2)), R),
        "modern": lambda: (stirred(lambda: ModernTransformer((K,) * SITES, Width(16, 2, 2), (7, 2), (2, 3))), R),
        "modern, none": lambda: (stirred(lambda: ModernTransformer((K,) * SITES, Width(16, 2, 2), grid=(2, 3))), None),
        "transformer": lambda: (network("transformer", (K,) * SITES), contexts()),
        "prefix_mlp": lambda: (network("prefix_mlp", (K,) * SITES), contexts()),
        "pixelsnail": lambda: (stirred(lambda: PixelSNAIL((K,) * SITES, (2, 3), Depth(4, 1, 1, 2, 2), 3)), contexts()),
    }[name]()


NETWORKS = ["gpt", "gpt, start code", "gpt, visible", "modern", "modern, none", "transformer", "prefix_mlp", "pixelsnail"]
noise = lambda: Noise(5, 2, torch.arange(3) + 7)  # noqa: E731


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_cached_and_uncached_draws_are_the_same_and_logits_equal_to_1e_10(name):
    """The uncached side calls the network on the whole sequence before each draw."""
    net, context = made(name)
    net.eval()
    q = AutoregressiveCodes(net, context)
    z = q.sample(() if context is not None else (3,), noise())
    u, uncached = noise().uniform((), (SITES,)), torch.zeros(3, SITES, dtype=torch.long)
    cache = net.start(3, context)
    for site in range(SITES):
        logits = net(uncached, context)[:, site]
        assert (net.advance(cache, site, uncached[:, site - 1] if site else None) - logits).abs().max() < 1e-10
        uncached[:, site] = inverse_cdf(logits.log_softmax(-1), u[:, site].double())
    assert torch.equal(z, uncached)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("a", [0, 1, 4, SITES])
def test_given_the_beginning_of_a_sample_the_rest_is_the_same(name, a):
    net, context = made(name)
    for q in (AutoregressiveCodes(net.eval(), context), TruncatedCodes(net, context, 0.8, top_k=3)):
        z = q.sample(() if context is not None else (3,), noise())
        assert torch.equal(q.continued(z[:, :a], noise()), z)
    part = AutoregressiveCodes(net, context).extended(z[:, :a], torch.full((3, 0), 0.5))
    assert torch.equal(part, z[:, :a])


def test_the_beginning_decides_what_follows():
    net, context = made("gpt")
    q = AutoregressiveCodes(net.eval(), context)
    z = q.sample((), noise())
    other = (z[:, :3] + 1) % K
    new = q.continued(other, noise())
    assert torch.equal(new[:, :3], other)
    assert not torch.equal(new[:, 3:], z[:, 3:])


def test_beginnings_that_do_not_fit_are_refused():
    q = AutoregressiveCodes(*made("gpt"))
    with pytest.raises(ValueError, match="a sequence has 6 codes, but 7 were given or asked for"):
        q.extended(torch.zeros(3, 5, dtype=torch.long), torch.rand(3, 2))
    with pytest.raises(ValueError, match="4 beginnings for 3 conditions"):
        q.extended(torch.zeros(4, 2, dtype=torch.long), torch.rand(4, 1))
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"given codes must lie in 0..4; got values from {wrong} to {wrong}"):
            q.continued(torch.full((3, 2), wrong))


def test_a_condition_can_be_left_out():
    net, context = made("gpt")
    q, z = AutoregressiveCodes(net.eval(), context), torch.randint(K, (3, SITES))
    marked = torch.tensor([True, False, True])
    expected = AutoregressiveCodes(net, torch.where(marked.unsqueeze(-1), torch.full_like(R, 6), R))
    torch.testing.assert_close(q.unconditioned(marked).log_prob(z), expected.log_prob(z))
    cut = TruncatedCodes(net, context, top_k=2).unconditioned(marked)
    torch.testing.assert_close(cut.log_prob(z), TruncatedCodes(net, expected._context, top_k=2).log_prob(z))
    with pytest.raises(TypeError, match="no condition to leave out"):
        AutoregressiveCodes(*made("gpt, start code")).unconditioned(marked)
    with pytest.raises(TypeError, match="use ModernTransformer, or a GPT with a start code"):
        AutoregressiveCodes(*made("gpt, visible")).unconditioned(marked)
