"""The gradients table: moments over multisets against plain loops over ordered tuples with autograd, and what theory says of each estimator."""

import itertools
import math

import pytest
import torch
from hydra.utils import instantiate

from experiments import settings
from experiments.gradients import run
from experiments.gradients.estimators import OneLogZ, Seen
from experiments.gradients.multisets import multisets
from experiments.gradients.problem import problem
from experiments.gradients.relaxed import Relaxed
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.posteriors.exact import Exact
from tests.scenarios import tiny_images, tiny_model

X = tiny_images(3)
ROWS = settings.table("gradients")["rows"]


@pytest.fixture(scope="module")
def at():
    """Nine codes, three images, an entropy of half a nat."""
    return problem(tiny_model().requires_grad_(False), X, 0.5, 0)


def made(row: str):
    return instantiate(settings.row("gradients", row, "smoke", 0).estimator)


@pytest.mark.parametrize(("codes", "samples"), [(3, 1), (4, 3), (9, 4)])
def test_multisets_stand_for_all_tuples(codes, samples):
    z, log_number = multisets(codes, samples)
    assert z.shape == (samples, math.comb(codes + samples - 1, samples))
    assert z.T.tolist() == sorted(z.T.tolist())
    assert log_number.exp().sum().item() == pytest.approx(codes**samples)
    p = torch.rand(codes, dtype=torch.float64).softmax(0)
    assert (log_number + p.log()[z].sum(0)).exp().sum().item() == pytest.approx(1)


def test_the_problem_has_the_entropy_that_was_asked_for_and_the_model_s_posterior_at_power_one(at):
    entropy = -(at.log_p.exp() * at.log_p).sum(-1).mean()
    assert float(entropy) == pytest.approx(0.5, abs=1e-6)
    natural = Exact()(at.model, X).table()
    again = problem(at.model, X, float(-(natural.exp() * natural).sum(-1).mean()), 0)
    assert again.power == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(again.log_p, natural)


@pytest.mark.parametrize("entropy", [0.0, 3.0])
def test_an_entropy_that_no_power_gives_is_refused(at, entropy):
    with pytest.raises(ValueError, match="no power of the likelihood"):
        problem(at.model, X, entropy, 0)


def test_wanted_gradients_are_those_of_autograd(at):
    logits = at.logits.clone().requires_grad_()
    log_q = FactorisedCodes(logits).table()
    reverse = (log_q.exp() * (log_q - at.log_p)).sum()
    forward = -(at.log_p.exp() * log_q).sum()
    for aim, loss in (("reverse", reverse), ("forward", forward)):
        torch.testing.assert_close(at.wanted(aim), torch.autograd.grad(loss, logits, retain_graph=True)[0].flatten(1))
    log_joint = at.log_joint.clone().requires_grad_()
    torch.testing.assert_close(at.wanted("likelihood"), torch.autograd.grad(-log_joint.logsumexp(-1).sum(), log_joint)[0])


@pytest.mark.parametrize("row", [row for row in ROWS if "gumbel" not in row])
def test_moments_are_those_of_plain_loops_over_ordered_samples(at, row):
    """Two samples of nine codes: 81 pairs, each with a backward pass of its own through q's logits or log p(x, z)."""
    estimator = made(row)
    moments = estimator.moments(at, 2)
    for image in range(len(X)):
        mean, second = 0.0, 0.0
        for z, p in pairs(at, estimator, image):
            logits, log_joint = at.logits[image : image + 1].clone().requires_grad_(), at.log_joint[image].clone().requires_grad_()
            log_q = FactorisedCodes(logits).table()[0]
            log_z = at.log_joint.logsumexp(-1)
            log_z = log_z.mean() if isinstance(estimator, OneLogZ) else log_z[image]
            log_b = estimator.policy(at)[image][z].unsqueeze(1)
            loss = estimator.loss(Seen(log_q[z].unsqueeze(1), log_joint[z].unsqueeze(1), log_b, log_z.view(1)))
            leaf = log_joint if estimator.aim == "likelihood" else logits
            g = torch.autograd.grad(loss, leaf)[0].flatten()
            mean = mean + p * g
            if estimator.resample:
                w = (at.log_joint[image] - at.log_q[image])[z].softmax(0)
                second += p * float(sum(w[s] * torch.nn.functional.one_hot(z[s], 9).double().square().sum() for s in range(2)))
            else:
                second += p * float(g.square().sum())
        torch.testing.assert_close(moments.mean[image], mean)
        assert float(moments.variance[image]) == pytest.approx(second - float(mean.square().sum()), abs=1e-9)


def exploring(at):
    """log b of every code: at each of two sites, a share of 0.02 of the uniform distribution over three codes."""
    first, second = (0.98 * at.logits.softmax(-1) + 0.02 / 3).unbind(1)
    return (first.unsqueeze(-1) * second.unsqueeze(1)).flatten(1).log()


def pairs(at, estimator, image):
    """What the source gives: all ordered pairs of samples, or the one set of codes that it always takes."""
    if estimator.source == "mode":
        return [(at.log_q[image].argmax().view(1), 1.0)]
    if estimator.source == "best":
        return [(at.log_joint[image].argsort(descending=True)[:2], 1.0)]
    p = {"q": at.log_q, "p": at.log_p, "exploring": exploring(at)}[estimator.source][image].exp()
    return [(torch.tensor(z), float(p[list(z)].prod())) for z in itertools.product(range(9), repeat=2)]


@pytest.mark.parametrize("row", ["leave_one_out", "leave_one_out_exploring", "reinforce", "log_variance", "trajectory_balance", "one_log_z", "sleep"])
def test_unbiased_estimators_have_no_bias_and_noise_that_falls(at, row):
    errors = [run.error(made(row), at, samples) for samples in (2, 4)]
    assert all(error.bias < 1e-6 for error in errors)
    assert errors[1].noise < errors[0].noise
    if row in ("trajectory_balance", "one_log_z", "reinforce", "sleep"):  # means of independent terms
        assert errors[1].noise == pytest.approx(errors[0].noise / math.sqrt(2))


def test_log_variance_is_leave_one_out_reinforce_on_policy(at):
    """Richter et al. (2020): not in expectation alone, but sample by sample."""
    a, b = (made(row).moments(at, 4) for row in ("log_variance", "leave_one_out"))
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.variance, b.variance)


def test_what_is_biased_by_few_samples_has_less_bias_with_more(at):
    for row in ("wake_phi", "m_weighted", "m_resampled", "memoised", "m_memoised"):
        few, more = (run.error(made(row), at, samples).bias for samples in (2, 5))
        assert more < few, row
    for row in ("memoised", "m_memoised"):
        assert run.error(made(row), at, 9).total < 1e-6, f"{row} with all nine codes is exact"


def test_resampling_keeps_the_mean_and_one_backward_pass(at):
    weighted, resampled = (made(row) for row in ("m_weighted", "m_resampled"))
    torch.testing.assert_close(weighted.moments(at, 3).mean, resampled.moments(at, 3).mean)
    assert (resampled.moments(at, 3).variance > weighted.moments(at, 3).variance).all()
    assert (weighted.cost(3), resampled.cost(3)) == ((3, 3), (3, 1))


def test_a_colder_relaxation_has_less_bias_and_more_noise(at):
    warm, cold = (run.error(Relaxed(temperature, draws=4000), at, 2) for temperature in (2.0, 0.3))
    assert cold.bias < warm.bias
    assert cold.noise > warm.noise


def test_the_relaxed_gradient_s_noise_is_that_of_its_draws(at):
    """One image thirty times, each with draws of its own: their means spread as the variance of the mean says, within a factor of 1.7 (29 degrees of freedom
    for each of several numbers: less than once in a thousand by chance).
    """
    same = at._replace(x=X[:1].expand(30, -1, -1, -1), log_joint=at.log_joint[:1].expand(30, -1), logits=at.logits[:1].expand(30, -1, -1))
    moments = Relaxed(1.0, draws=500).moments(same, 4)
    spread = float(moments.mean.var(0).sum())
    assert spread / 1.7 < float(moments.uncertainty.mean()) < spread * 1.7
    torch.testing.assert_close(moments.variance * 4, moments.uncertainty * 500)


def test_a_row_writes_its_numbers(monkeypatch, at):
    monkeypatch.setattr(run, "frozen", lambda *_: (at.model, X))
    config = settings.row("gradients", "m_greedy", "smoke", 0)
    steps = []
    records, pictures = run.execute(config, "m_greedy", steps.append)
    values = {record["metric"]: record["value"] for record in records}
    assert set(settings.table("gradients")["columns"]) <= values.keys()
    assert values["noise_4_medium"] == 0 < values["bias_4_medium"] == values["total_4_medium"]
    assert steps == [config.batches]
    assert pictures["errors"].shape == (3, 3, 2)
    assert pictures["curve"][1] == {"step": 4, "val_nll": values["total_4_medium"]}


def test_means_of_two_samples_are_those_of_their_formulas(at):
    """Each written out for all ordered pairs, image by image."""
    one, two = (index.flatten() for index in torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij"))
    for image in range(len(X)):
        q, p, r = at.log_q[image], at.log_p[image], at.log_q[image] - at.log_joint[image]
        b, scores = exploring(at)[image], at.scores[image]
        on, off = (q[one] + q[two]).exp(), (b[one] + b[two]).exp()
        variance = (r[one] - r[two]).unsqueeze(1) * (scores[one] - scores[two]) / 2  # of half the squared difference, halved again
        balance = ((r + at.log_joint[image].logsumexp(0)).unsqueeze(1) * scores)[one]
        w = (p - q).exp()[one] / ((p - q).exp()[one] + (p - q).exp()[two])
        wake = -(w.unsqueeze(1) * scores[one] + (1 - w).unsqueeze(1) * scores[two])
        best = at.log_joint[image].topk(2)
        expected = {
            "log_variance_exploring": off @ variance,
            "trajectory_balance_exploring": off @ balance,
            "wake_phi": on @ wake,
            "vimco": of_the_bound(at, image, one, two),
            "memoised": -best.values.softmax(0) @ scores[best.indices],
            "m_sampled": -q.exp(),
            "m_weighted": -torch.zeros(9, dtype=q.dtype).scatter_add(0, one, on * w).scatter_add(0, two, on * (1 - w)),
            "m_greedy": -torch.nn.functional.one_hot(q.argmax(), 9).to(q),
            "m_memoised": -torch.zeros(9, dtype=q.dtype).scatter(0, best.indices, best.values.softmax(0)),
        }
        for row, mean in expected.items():
            torch.testing.assert_close(made(row).moments(at, 2).mean[image], mean, msg=lambda text, row=row: f"{row}: {text}")


def of_the_bound(at, image, one, two):
    """The gradient in q's logits of -E[log mean w], by autograd through all pairs."""
    logits = at.logits[image : image + 1].clone().requires_grad_()
    log_q = FactorisedCodes(logits).table()[0]
    log_w = at.log_joint[image] - log_q
    bound = torch.logaddexp(log_w[one], log_w[two]) - math.log(2)
    return torch.autograd.grad(-((log_q[one] + log_q[two]).exp() @ bound), logits)[0].flatten()
