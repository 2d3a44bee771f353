"""The hierarchical mixture: every step of EM against loops, closed forms and scipy; twenty runs at once against each alone."""

import itertools
import math

import pytest
import torch
from hydra.utils import get_method
from scipy.stats import multivariate_normal, norm
from torch.nn.functional import leaky_relu

from experiments import settings
from experiments.mixture import data, published
from experiments.mixture.batches import Phases
from experiments.mixture.learners import ExactEM, Responsibilities, VariationalEM, new_means
from experiments.mixture.mean_field import MeanField
from experiments.mixture.measures import found
from experiments.mixture.model import Mixtures
from experiments.mixture.policy import PolicyLogZ, RunwisePolicy, RunwiseTrunk
from experiments.mixture.run import build, together
from latentcomp.batch import Batch
from latentcomp.enumeration import all_codes, log_joint_table
from latentcomp.evaluate.exact import exact
from latentcomp.learners.learner import trainable
from latentcomp.noise import Noise
from latentcomp.posteriors import Autoregressive, Exact
from latentcomp.train import fit

SEEDS = (3, 0, 11)
SMALL = ("budget.updates=3", "budget.e_steps=4", "budget.size=8", "data.n=40")


@pytest.fixture
def x():
    return data.points(30)


@pytest.fixture
def mixtures(x):
    return Mixtures(data.starts(x, SEEDS))


def tiled(x, runs=None):
    return x.repeat(runs or len(SEEDS), 1, 1, 1)


def policy(seeds=SEEDS):
    return Autoregressive(RunwiseTrunk(seeds), RunwisePolicy(seeds)).double()


# the data


def test_the_points_are_those_of_the_true_mixture():
    """The 16 petals are equally probable, and points scatter around them with s = 1/4: chi-squared and moments, each wrong once in 10^5 seeds."""
    x = data.points(4000).flatten(1)
    petals = (data.truth()[:, None] + data.offsets()).flatten(0, 1)
    distance = torch.cdist(x, petals)
    counts = distance.argmin(1).bincount(minlength=16).double()
    assert float(((counts - 250).square() / 250).sum()) < 51  # chi-squared with 15 degrees of freedom
    rest = x - petals[distance.argmin(1)]
    assert rest.mean(0).abs().max() < 4.5 * 0.25 / math.sqrt(4000)
    assert rest.std(0).sub(0.25).abs().max() < 4.5 * 0.25 / math.sqrt(8000) + 0.01  # a few points lie nearer to another petal
    assert torch.equal(data.points(10), data.points(4000)[:10])


def test_starts_are_points_of_the_data_and_a_function_of_the_seed(x):
    starts = data.starts(x, [5, 6])
    assert all(any(torch.equal(mean, point) for point in x.flatten(1)) for mean in starts.flatten(0, 1))
    assert torch.equal(data.starts(x, [6])[0], starts[1])
    assert not torch.equal(starts[0], starts[1])


# the model


def test_the_likelihood_is_scipy_s_with_both_constants(x, mixtures):
    """log p(x) of each run by scipy's densities, and the notebook's by its own formula: 2 log s + log 2 pi added to each coordinate."""
    result = exact(mixtures, Exact(), tiled(x)).log_px.view(len(SEEDS), -1)
    for log_px, means in zip(result, mixtures.means.detach(), strict=True):
        densities = [multivariate_normal((mu + o).numpy(), 0.25**2).pdf(x.flatten(1).numpy()) for mu in means for o in data.offsets()]
        assert torch.allclose(log_px, torch.as_tensor(sum(densities) / 16).log(), atol=1e-9)
        each = torch.as_tensor([norm(0, 0.25).logpdf(0)])  # the largest log-density of a coordinate: minus log s sqrt(2 pi)
        square = torch.stack([(x.flatten(1) - mu - o).square() for mu in means for o in data.offsets()], 1)
        notebook = (-square / (2 * 0.25**2) + 2 * math.log(0.25) + math.log(2 * math.pi)).sum(-1).logsumexp(1) - math.log(16)
        assert torch.allclose(log_px + published.CONSTANT, notebook, atol=1e-9)
        assert math.isclose(2 * float(each), published.LOG_NORMALISER)
    assert math.isclose(published.CONSTANT, -2.8041, abs_tol=5e-5)


def test_the_exact_posterior_is_a_loop_over_codes(x, mixtures):
    q = Exact()(mixtures, tiled(x)).table().exp().view(len(SEEDS), len(x), 4, 4)
    for run, means in enumerate(mixtures.means.detach()):
        for row in (0, 7, 29):
            weights = [[math.exp(-8 * float((x[row].flatten() - means[i] - data.offsets()[j]).square().sum())) for j in range(4)] for i in range(4)]
            total = sum(map(sum, weights))
            assert all(math.isclose(float(q[run, row, i, j]), weights[i][j] / total, abs_tol=1e-9) for i in range(4) for j in range(4))


def test_codes_of_rows_have_the_density_of_their_run_in_the_table(x, mixtures):
    z = torch.randint(4, (5, len(SEEDS) * len(x), 2), generator=torch.Generator().manual_seed(0))
    table = log_joint_table(mixtures, tiled(x))
    expected = table.gather(1, (z[..., 0] * 4 + z[..., 1]).T).T
    assert torch.allclose(mixtures.log_joint(tiled(x), z), expected, atol=1e-9)
    with pytest.raises(ValueError, match="31 rows are not the rows of 3 runs"):
        mixtures.log_joint(x[:1].repeat(31, 1, 1, 1), z[0, :31])


def test_dreams_come_from_the_model():
    """Mean distance from the nearest petal of the dreams of the true mixture: s sqrt(pi / 2) within 5 standard errors."""
    dreams, z = Mixtures(data.at_truth(data.points(1), [0])).sample(4000, noise=Noise(1, 0, torch.arange(4000)))
    radius = (dreams.flatten(1) - data.truth()[z[:, 0]] - data.offsets()[z[:, 1]]).norm(dim=1)
    assert abs(float(radius.mean()) - 0.25 * math.sqrt(math.pi / 2)) < 5 * 0.25 * math.sqrt((2 - math.pi / 2) / 4000)


# exact and variational EM


def expected_log_joint(means, r, x):
    """sum_x sum_ij r log p(x, i, j), of one run, up to a constant."""
    square = (x[:, None, None] - means[:, None] - data.offsets()).square().sum(-1)
    return -(r * square).sum()


def test_the_closed_form_is_the_maximiser_of_the_expected_log_joint(x):
    """Its gradient vanishes there; and, the function being concave, no other means do better."""
    r = torch.rand(1, len(x), 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means = new_means(r, x.flatten(1).unsqueeze(0), data.offsets(), torch.zeros(1, 4, 2, dtype=torch.float64))[0].requires_grad_()
    value = expected_log_joint(means, r[0], x.flatten(1))
    (gradient,) = torch.autograd.grad(value, means)
    assert gradient.abs().max() < 1e-9
    for seed in range(5):
        other = means.detach() + 0.1 * torch.randn(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert expected_log_joint(other, r[0], x.flatten(1)) < value


def test_a_cluster_without_points_stays_where_it_is(x):
    r = torch.zeros(1, len(x), 4, 4, dtype=torch.float64)
    r[:, :, 0] = 0.25
    old = torch.arange(8.0, dtype=torch.float64).view(1, 4, 2)
    new = new_means(r, x.flatten(1).unsqueeze(0), data.offsets(), old)
    assert torch.equal(new[:, 1:], old[:, 1:])
    assert torch.allclose(new[0, 0], x.flatten(1).mean(0))


def mean_field(mixtures, x, sweeps):
    posterior = MeanField(sweeps)
    posterior.begin(torch.arange(len(x)), x)
    return posterior


def test_no_sweep_of_the_mean_field_lowers_the_elbo_and_a_fixed_point_is_one(x, mixtures):
    elbos = [exact(mixtures, mean_field(mixtures, tiled(x), sweeps), tiled(x)).elbo for sweeps in (1, 2, 3, 10, 500)]
    assert all((after >= before - 1e-9).all() for before, after in itertools.pairwise(elbos))
    assert (elbos[1] > elbos[0] + 1e-3).any()
    q = mean_field(mixtures, tiled(x), 500)(mixtures, tiled(x))
    log_p, q_i, q_j = log_joint_table(mixtures, tiled(x)).detach().view(-1, 4, 4), q.log_p[:, 0].exp(), q.log_p[:, 1].exp()
    optimal_i, optimal_j = torch.einsum("bij,bj->bi", log_p, q_j).softmax(-1), torch.einsum("bij,bi->bj", log_p, q_i).softmax(-1)
    assert torch.allclose(q_i, optimal_i, atol=1e-6)
    assert torch.allclose(q_j, optimal_j, atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "variational"])
def test_no_iteration_of_em_lowers_its_bound(kind, x, mixtures):
    learner = ExactEM(Exact(), Responsibilities()) if kind == "exact" else VariationalEM(MeanField(), Responsibilities())
    batches = Phases(x, SEEDS, 8, 0, len(x))
    if kind == "variational":
        learner.posterior.begin(batches.all.positions, x)
    mixtures.requires_grad_(False)
    bounds = [mixtures.by_run(exact(mixtures, learner.posterior, batches.all.x).elbo).mean(1) for _ in fit(mixtures, learner, batches, [])]
    assert all((after >= before - 1e-9).all() for before, after in itertools.pairwise(bounds))
    assert (bounds[-1] > bounds[0] + 0.01).any()


def test_exact_em_is_a_plain_loop(x, mixtures):
    means = mixtures.means.detach()[1].clone()
    mixtures.requires_grad_(False)
    for _ in fit(mixtures, ExactEM(Exact(), Responsibilities()), Phases(x, SEEDS, 4, 0, len(x)), []):
        square = (x.flatten(1)[:, None, None] - means[:, None] - data.offsets()).square().sum(-1)
        r = (-square / (2 * 0.25**2)).flatten(1).softmax(1).view(-1, 4, 4)
        shifted = (x.flatten(1)[:, None, None] - data.offsets()) * r.unsqueeze(-1)
        means = shifted.sum((0, 2)) / r.sum((0, 2)).unsqueeze(-1)
        assert torch.allclose(mixtures.means[1], means, atol=1e-9)


def test_weighted_samples_estimate_the_exact_responsibilities(x, mixtures):
    """Samples of a uniform q, weighed: the mean of 10,000 lies within 0.1 of the posterior. The standard error is largest where two of the 16 codes share the
    probability, about 1,250 samples that fall on one or the other: 0.5 / sqrt(1,250) = 0.014, so seven of them.
    """
    q = mixtures.prior().__class__(torch.zeros(len(SEEDS) * len(x), 2, 4, dtype=torch.float64))
    batch = Batch(tiled(x))
    with torch.no_grad():
        r = Responsibilities(10_000).table(mixtures, q, batch, Noise(0, 0, batch.positions))
    assert torch.allclose(r.sum(1), torch.ones(len(r), dtype=r.dtype))
    assert (r - Exact()(mixtures, tiled(x)).table().exp()).abs().max() < 0.1


# GFlowNet-EM


def notebook_network(posterior, run, state):
    """10 -> 32 -> LeakyReLU -> 9, from the weights of one run."""
    trunk, net = posterior.trunk, posterior.policy
    first = torch.cat([trunk.weight[run], net.rows[run].flatten(0, 1)])  # rows: x, clusters, petals
    return (leaky_relu(state @ first + trunk.bias[run]) @ net.head[run] + net.head_bias[run]).squeeze(0)


def test_each_run_has_the_649_parameters_of_the_notebook():
    for runs in (1, 3):
        assert sum(p.numel() for p in trainable(policy(range(runs)))) == 649 * runs


def test_the_faithful_loss_is_a_transcription_of_the_notebook_quirk_by_quirk(x, mixtures):
    posterior, z = policy(), torch.randint(4, (len(SEEDS) * len(x), 2), generator=torch.Generator().manual_seed(0))
    q = posterior(mixtures, tiled(x))
    objective = published.PublishedBalance(PolicyLogZ(), clip=-20)
    log_q = q.log_prob(z.unsqueeze(0))
    loss = objective(q, log_q, mixtures.log_joint(tiled(x), z.unsqueeze(0)), log_q)
    total, clipped = 0.0, 0
    for row in range(len(z)):
        run, point, (i, j) = row // len(x), x[row % len(x)].flatten(), z[row].tolist()
        empty, one = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        one[i] = 1
        at_start = notebook_network(posterior, run, torch.cat([point, empty]))
        after_i = notebook_network(posterior, run, torch.cat([point, one]))
        log_pf = at_start[:4].log_softmax(0)[i] + after_i[4:8].log_softmax(0)[j]
        log_reward = -((point - mixtures.means.detach()[run, i] - data.offsets()[j]) / 0.25).square().sum() / 2
        clipped += int(log_reward < -20)
        total += float((at_start[8] + log_pf).detach() - max(float(log_reward), -20.0)) ** 2 / len(z)
    assert math.isclose(float(loss.detach()), total, rel_tol=1e-9)
    assert 0 < clipped < len(z), "the clip is seen at work"


def test_sampling_scoring_and_enumeration_agree(x, mixtures):
    q = policy()(mixtures, tiled(x))
    z, log_q = q.sample_and_log_prob((6,), Noise(0, 0, torch.arange(len(SEEDS) * len(x))))
    assert torch.allclose(log_q, q.log_prob(z))
    table = q.table()
    assert torch.allclose(table.exp().sum(-1), torch.ones(len(table), dtype=table.dtype))
    for position, code in enumerate(all_codes((4, 4))):
        assert torch.allclose(q.log_prob(code.expand(len(table), 2)), table[:, position])
    steps, features = q.log_prob_steps(z), q.features(z)
    head = q.network.head.repeat_interleave(len(x), 0)
    bias = q.network.head_bias.repeat_interleave(len(x), 0).squeeze(1)
    second = (torch.einsum("sbf,bfo->sbo", features[..., 1, :], head) + bias)[..., 4:8].log_softmax(-1)
    assert torch.allclose(steps[..., 1], second.gather(-1, z[..., 1:]).squeeze(-1))


def test_the_faithful_m_step_is_one_gradient_step_of_the_notebook(x):
    """SGD(0.1) on the mean over points of ||x - mu_i - o_j||^2 / (2 s^2), for each run, whatever the number of runs."""
    config = settings.row("mixture", "gflownet_em", "full", 0, ("budget.e_steps=0", "budget.updates=1", "data.n=30", "learner.schedule.points=30"))
    parts = build(config, SEEDS)
    parts.learner.schedule.last.zero_()  # as after an E-step
    before = parts.model.means.detach().clone()
    batch = parts.batches.all
    z = parts.learner.posterior(parts.model, batch.x).sample((1,), Noise(0, 0, batch.positions))[0]
    next(iter(fit(parts.model, parts.learner, parts.batches, parts.optimizers)))
    for run, mu in enumerate(before.double()):
        mu = mu.requires_grad_()
        rows = z.view(len(SEEDS), -1, 2)[run]
        loss = ((parts.x.double().flatten(1) - mu[rows[:, 0]] - data.offsets()[rows[:, 1]]).square().sum(1) / (2 * 0.25**2)).mean()
        (gradient,) = torch.autograd.grad(loss, mu)
        assert torch.allclose(parts.model.means[run].double(), mu - 0.1 * gradient, atol=1e-5)


def test_the_gate_divides_the_loss_by_the_points_and_never_binds_at_100():
    gate = published.GatedPeriod(2, 1, threshold=100.0, points=4000)
    assert [gate.updates(step) for step in range(2)] == [("E",), ("E",)]
    gate.update(1, {"e_loss": torch.full((4000,), 399_999.0)})
    assert gate.updates(2) == ("M",)
    gate.update(1, {"e_loss": torch.full((4000,), 400_001.0)})
    assert gate.updates(2) == ()


# all runs at once


@pytest.mark.parametrize("budget", ["cpu", "full"])
@pytest.mark.parametrize("row", ["exact_em", "variational_em", "gflownet_em"])
def test_the_batched_run_equals_single_runs(row, budget):
    config = settings.row("mixture", row, budget, 0, (*SMALL, "dtype=float64"))
    batched = together(config, row, SEEDS)
    for seed, (records, pictures) in zip(SEEDS, batched, strict=True):
        alone, alone_pictures = together(config, row, [seed])[0]
        assert torch.allclose(pictures["means"], alone_pictures["means"], atol=1e-5)
        for one, other in zip(records, alone, strict=True):
            assert one["metric"] == "seconds" or one["value"] == pytest.approx(other["value"], abs=1e-6)
            assert one["seed"] == other["seed"] == seed


def test_the_numbers_of_a_run_fit_together():
    config = settings.row("mixture", "gflownet_em", "smoke", 2, SMALL)
    records, pictures = get_method(config.procedure)(config, "gflownet_em")
    values = {record["metric"]: record["value"] for record in records}
    assert values["own_bound"] - values["exact_nll"] == pytest.approx(values["kl_q_p"], abs=1e-6)
    assert values["log_px_notebook"] - values["log_px"] == pytest.approx(published.CONSTANT)
    assert pictures["curve"][-1]["val_nll"] == pytest.approx(-values["log_px"], abs=1e-4)
    assert [record["expected"] for record in records if record["metric"] == "log_px_notebook"] == [-5.60007]


def test_clusters_are_found_where_each_true_mean_has_a_learned_one_within_a_quarter():
    truth = data.truth()
    moved = truth.clone()
    moved[2, 0] += 0.26
    assert found(torch.stack([truth.flip(0) + 0.17, moved, truth[[0, 0, 1, 2]]])).tolist() == [True, False, False]


def test_exact_em_from_the_truth_gives_the_notebook_s_number():
    """-5.60 on points of its own; a mean over 4,000 points has a standard error of about 0.016, so 0.06 is wrong once in 5,000 data sets."""
    config = settings.row("mixture", "exact_em_from_truth", "cpu", 0, ("budget.updates=10", "budget.every=10"))
    records, _ = together(config, "exact_em_from_truth", [0])[0]
    value = next(record["value"] for record in records if record["metric"] == "log_px_notebook")
    assert value == pytest.approx(-5.60, abs=0.06)
