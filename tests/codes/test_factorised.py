"""What independent sites have beyond the contract: torch's Categorical as oracle, Concrete samples, KL."""

import pytest
import torch
from torch.distributions import Categorical, Independent, kl_divergence

from latentcomp.codes.factorised import FactorisedCodes, uniform_codes
from latentcomp.enumeration import all_codes
from latentcomp.noise import Noise
from tests.codes.families import build, contexts
from tests.frequencies import assert_frequencies

B, N, K = 3, 2, 4


def logits(seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 2 * torch.randn(B, N, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_log_prob_and_mode_equal_torch():
    z = torch.randint(K, (5, B, N), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(FactorisedCodes(logits()).log_prob(z), Independent(Categorical(logits=logits()), 1).log_prob(z))
    assert torch.equal(FactorisedCodes(logits()).mode, logits().argmax(-1))


def test_half_precision_logits_are_normalised_in_float32():
    q = FactorisedCodes(logits(dtype=torch.bfloat16))
    assert q.log_p.dtype == torch.float32
    torch.testing.assert_close(q.log_p, logits(dtype=torch.bfloat16).float().log_softmax(-1))


def test_kl_equals_torch_and_the_sum_over_all_codes():
    q, p = FactorisedCodes(logits(0)), FactorisedCodes(logits(1))
    torch.testing.assert_close(q.kl(p), kl_divergence(Categorical(logits=logits(0)), Categorical(logits=logits(1))).sum(-1))
    torch.testing.assert_close(q.kl(p), (q.table().exp() * (q.table() - p.table())).sum(-1))


def test_kl_of_codes_that_do_not_exist_adds_nothing():
    q, uniform = build("factorised", (2, 3, 4), contexts()), uniform_codes((2, 3, 4), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(q.kl(uniform), (q.table().exp() * (q.table() - uniform.table())).sum(-1))


def test_uniform_codes_are_equally_probable():
    q = uniform_codes((2, 3, 4), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(q.log_prob(all_codes((2, 3, 4))).exp(), torch.full((24,), 1 / 24, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_relaxed_is_the_softmax_of_perturbed_logits_with_a_gradient(temperature):
    leaf, index = logits().requires_grad_(), torch.arange(B)
    y = FactorisedCodes(leaf).relaxed(temperature, Noise(0, 1, index))
    u = Noise(0, 1, index).uniform((), (N, K), torch.float64)
    perturbed = (logits().log_softmax(-1) - (-u.log()).log()) / temperature
    torch.testing.assert_close(y, perturbed.exp() / perturbed.exp().sum(-1, keepdim=True))
    (gradient,) = torch.autograd.grad(y[..., 0].sum(), leaf)
    assert (gradient[..., 0] > 0).all()


def test_the_largest_entry_of_a_relaxed_sample_has_the_probability_of_its_code():
    rows = 4000
    q = FactorisedCodes(logits()[0].expand(rows, N, K))
    y = q.relaxed(0.5, Noise(0, 0, torch.arange(rows)))
    for site in range(N):
        assert_frequencies(y.argmax(-1)[:, site], q.log_p[0, site].exp())


def test_relaxed_puts_nothing_on_codes_that_do_not_exist():
    y = build("factorised", (2, 3, 4), contexts()).relaxed(5.0, Noise(0, 0, torch.arange(B)))
    assert y[:, 0, 2:].eq(0).all()
    assert y[:, 1, 3:].eq(0).all()
    torch.testing.assert_close(y.sum(-1), torch.ones(B, 3, dtype=torch.float64))
