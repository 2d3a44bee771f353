"""Markov kernels against their transition matrices, written out from brute-force log p(x, z): what leaves p(z|x) as it is, and what the code draws."""

from functools import reduce

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.codebook.codebook import Codebook
from latentcomp.enumeration import all_codes
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.moves import Gibbs, GibbsSweep, GreedyLocalSearch, LocalSearch
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Uniform
from tests.frequencies import assert_frequencies, positions
from tests.scenarios import IMAGE, WIDTH, brute_force_log_joint, posterior, tiny_images, tiny_model

N, K, DRAWS = 3, 2, 1500
X = tiny_images(1)
CODES = all_codes((K,) * N)
M = len(CODES)
EXPLORATION = (0.3, 1.5)
CASES = {
    "gibbs": (Gibbs(), "prefix_mlp"),
    "sweep": (GibbsSweep(), "prefix_mlp"),
    "local": (LocalSearch(), "prefix_mlp"),
    "local_transformer": (LocalSearch(*EXPLORATION), "transformer"),
    "local_factorised": (LocalSearch(*EXPLORATION), "factorised"),
    "local_table": (LocalSearch(*EXPLORATION), "table"),
    "greedy": (GreedyLocalSearch(), "prefix_mlp"),
}


def site_kernel(p: torch.Tensor, site: int) -> torch.Tensor:
    """T(z'|z) = p(z'_i | z_-i) where z' and z differ at most at the site."""
    t = torch.zeros(M, M, dtype=torch.float64)
    for a in range(M):
        same = [b for b in range(M) if all(CODES[a, i] == CODES[b, i] for i in range(N) if i != site)]
        for b in same:
            t[a, b] = p[b] / sum(p[c] for c in same)
    return t


def suffix_kernel(p: torch.Tensor, b: torch.Tensor, greedy: bool) -> torch.Tensor:
    """Over all cuts: propose b(z' | the prefix of z), accept by Metropolis and Hastings, or if p is larger; else stay."""
    t = torch.zeros(M, M, dtype=torch.float64)
    for cut in range(N):
        for a in range(M):
            same = [c for c in range(M) if torch.equal(CODES[a, :cut], CODES[c, :cut])]
            mass = sum(b[c] for c in same)
            for c in same:
                accepted = float(p[c] > p[a]) if greedy else min(1.0, float(p[c] * b[a] / (p[a] * b[c])))
                t[a, c] += b[c] / mass * accepted / N
                t[a, a] += b[c] / mass * (1 - accepted) / N
    return t


def made(kind: str) -> Posterior:
    """A posterior of any kind; the table's is that of another model, so that it is not exact."""
    return Teacher(tiny_model(N, K, seed=5)) if kind == "table" else posterior(kind, N, K)


class Teacher(Exact):
    """The exact posterior of one model, whatever model asks."""

    def __init__(self, teacher: LatentVariableModel) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, model, x, c=None):
        """The teacher's posterior."""
        return super().forward(self.teacher, x, c)


def setting(case: str):
    """Model, posterior of X, the exact posterior's probabilities by brute force, the kernel, and its transition matrix."""
    kernel, kind = CASES[case]
    model = tiny_model(N, K, learned_prior=True)
    q = made(kind)(model, X)
    p = brute_force_log_joint(model, X).detach()[0].softmax(-1)
    if isinstance(kernel, GibbsSweep):
        t = reduce(torch.matmul, [site_kernel(p, site) for site in range(N)])
    elif isinstance(kernel, Gibbs):
        t = sum(site_kernel(p, site) for site in range(N)) / N
    else:
        policy = q.explore(kernel.epsilon, kernel.temperature)
        log_b = torch.stack([policy.log_prob(z.unsqueeze(0))[0] for z in CODES]).detach()
        t = suffix_kernel(p, log_b.exp(), isinstance(kernel, GreedyLocalSearch))
    return model, q, p, kernel, t


@pytest.mark.parametrize("case", CASES)
def test_the_transition_matrix_leaves_the_posterior_as_it_is(case):
    *_, p, _, t = setting(case)
    torch.testing.assert_close(t.sum(1), torch.ones(M).double())
    moved = (p @ t - p).abs().max()
    flow = p.unsqueeze(1) * t
    unbalanced = (flow - flow.T).abs().max()
    assert (moved < 1e-12) == (case != "greedy")
    assert (unbalanced < 1e-12) == (case not in ("greedy", "sweep"))
    assert t.diagonal().max() < 1 or case == "greedy"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [1, 2])
def test_moves_have_the_frequencies_of_the_transition_matrix(case, steps):
    """From every code. Error rate: ``frequencies.LEVEL`` = 1e-6 for each of the eight rows."""
    model, q, _, kernel, t = setting(case)
    z = CODES.repeat_interleave(DRAWS, 0).unsqueeze(1)
    moved = positions(kernel(model, q, Batch(X), z, Noise(2, 0, torch.arange(1)), steps), (K,) * N).view(M, DRAWS)
    for row, probabilities in zip(moved, torch.linalg.matrix_power(t, steps), strict=True):
        assert_frequencies(row, probabilities)


@pytest.mark.parametrize("case", CASES)
def test_each_step_says_log_joint_of_its_codes_and_each_datum_has_its_own(case):
    model, x = tiny_model(N, K), tiny_images(4)
    q = made(CASES[case][1])(model, x)
    z = CODES[torch.arange(5 * 4).view(5, 4) % M]
    new, log_joint = CASES[case][0].step(model, q, Batch(x), z, Noise(0, 0, torch.arange(4)), None)
    assert new.shape == z.shape
    torch.testing.assert_close(log_joint, model.log_joint(x, new))


@pytest.mark.parametrize("case", CASES)
def test_a_part_of_the_batch_moves_as_it_would_in_the_whole(case):
    model, x = tiny_model(N, K), tiny_images(4)
    kernel, kind = CASES[case]
    z = CODES[torch.arange(3 * 4).view(3, 4) % M]
    whole = kernel(model, made(kind)(model, x), Batch(x), z, Noise(0, 0, torch.arange(4)), 3)
    part = kernel(model, made(kind)(model, x[2:]), Batch(x[2:]), z[:, 2:], Noise(0, 0, torch.arange(2, 4)), 3)
    assert torch.equal(whole[:, 2:], part)


def test_sites_of_different_size_never_take_a_code_that_is_missing():
    torch.manual_seed(0)
    model = LatentVariableModel(Uniform(2, (3, 2)), Codebook(3, WIDTH), ImageDecoder(2, WIDTH, (8,), IMAGE), Bernoulli()).double()
    z = torch.zeros(DRAWS, 1, 2, dtype=torch.long)
    moved = GibbsSweep()(model, Exact()(model, X), Batch(X), z, Noise(0, 0, torch.arange(1)), 8)
    log_joint = torch.stack([model.log_joint(X, code.unsqueeze(0)) for code in all_codes((3, 2))]).squeeze(-1)
    assert_frequencies(positions(moved, (3, 2)), log_joint.softmax(-1))


def test_a_gibbs_step_decodes_k_images_and_local_search_one_after_the_first():
    model = tiny_model(N, K)
    q, z = posterior("prefix_mlp", N, K)(model, X), CODES.unsqueeze(1)
    for kernel, images in ((Gibbs(), 5 * K * M), (LocalSearch(), (5 + 1) * M)):
        before = model.decoder_evaluations
        kernel(model, q, Batch(X), z, Noise(0, 0, torch.arange(1)), 5)
        assert model.decoder_evaluations - before == images


def test_the_chunk_changes_nothing_but_memory():
    model, x, z = tiny_model(N, K), tiny_images(4), CODES[torch.arange(5 * 4).view(5, 4) % M]
    whole, parts = (kernel(model, Exact()(model, x), Batch(x), z, Noise(0, 0, torch.arange(4)), 3) for kernel in (Gibbs(), Gibbs(chunk=7)))
    assert torch.equal(whole, parts)


def test_what_cannot_go_on_from_a_prefix_and_settings_without_sense_are_refused():
    model = tiny_model(N, K)
    with pytest.raises(TypeError, match="PointCodes cannot draw the rest of a sequence: choose a posterior such as Autoregressive"):
        Mode(Exact())(model, X).redraw(CODES.unsqueeze(1), torch.zeros(M, 1, dtype=torch.long), Noise(0, 0, torch.arange(1)))
    with pytest.raises(ValueError, match=r"epsilon is a probability.*got 1.5"):
        LocalSearch(1.5)
    with pytest.raises(ValueError, match="at least one image at a time, got chunk=0"):
        Gibbs(0)
