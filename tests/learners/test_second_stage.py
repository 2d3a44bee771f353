"""The second stage: what its loss is, who learns, what is replaced and dropped, and that it finds the codes' distribution."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from latentcomp.batch import Batch
from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.codes.masked import MaskedCodes, cosine_share
from latentcomp.conditions import Conditioning, Encoded, Labels, Shifted
from latentcomp.data.batches import Batches
from latentcomp.enumeration import all_codes
from latentcomp.learners.second_stage import SecondStage, check_codes, second_stage
from latentcomp.nn.gpt import GPT, Dropout, Size
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.orders import z_curve
from latentcomp.noise import Noise
from latentcomp.phases.second_stage import MaskedSites, TeacherForced, replaced
from latentcomp.priors import Autoregressive, InOrder, Masked, Uniform
from latentcomp.train import fit
from tests.codes.families import stirred
from tests.scenarios import posterior, tiny_images, tiny_model

SITES, K = 2, 3
X = tiny_images(20)
C = torch.arange(20) % 2


def gpt(start: int | None = 4, dropout: float = 0.0) -> GPT:
    """Two sites of three codes after one of two labels, which stand behind the codes in one table."""
    return stirred(lambda: GPT((K,) * SITES, Size(6, 3, 8, 1, 2), Dropout(dropout), start=start))


def conditional() -> Autoregressive:
    """p(z | label)."""
    return Autoregressive(gpt(), Conditioning(Shifted(Labels(2), K)))


def batch(rows: int = 6, z: torch.Tensor | None = None) -> Batch:
    """Images, labels, positions of their own."""
    return Batch(X[:rows], C[:rows], z, torch.arange(rows) + 40)


def test_the_loss_is_the_cross_entropy_of_the_images_codes_alone():
    model, learner = second_stage(tiny_model(), conditional()), SecondStage(posterior("nearest_code"))
    (loss,) = learner.losses(model, batch())
    z = learner.posterior(model, X[:6]).mode
    logits = gpt().logits(z, C[:6, None] + K)[..., :K]
    torch.testing.assert_close(loss.value, cross_entropy(logits.mT, z, reduction="none").sum(-1).mean())
    assert {id(p) for p in loss.learns} == {id(p) for p in model.prior.parameters()}
    torch.testing.assert_close(loss.metrics["nats_per_code"] * SITES, loss.metrics["nll"])


def test_codes_of_the_batch_stand_for_the_posterior():
    z = torch.randint(K, (6, SITES))
    model, learner = second_stage(tiny_model(), conditional()), SecondStage(posterior("nearest_code"))
    (loss,) = learner.losses(model, batch(z=z))
    torch.testing.assert_close(loss.value, -model.prior(C[:6]).log_prob(z).mean())


def test_nothing_but_the_prior_changes_and_conditions_stay_frozen():
    first, own = tiny_model(), tiny_model(seed=5)
    stage = Encoded(own, posterior("nearest_code", seed=6))
    prior = Autoregressive(GPT((K,) * SITES, Size(K, 4, 8, 1, 2)).double(), Conditioning(stage))
    model, learner = second_stage(first, prior), SecondStage(posterior("nearest_code"))
    before = {n: p.clone() for m in (model, learner) for n, p in m.state_dict().items() if isinstance(p, torch.Tensor)}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    model.train()
    learner.train()
    assert not any(part.training for part in (learner.posterior, stage))
    for _ in fit(model, learner, Batches(X, 5, 3, c=X), optimizer):
        pass
    moved = {n for m in (model, learner) for n, p in m.state_dict().items() if isinstance(p, torch.Tensor) and not torch.equal(p, before[n])}
    assert moved
    assert all(n.startswith("prior.network") for n in moved)
    assert learner.step == 3


@pytest.mark.parametrize("keep", [0.0, 0.7])
def test_with_noise_on_what_is_read_the_targets_stay_clean(keep):
    z, prior = torch.randint(K, (6, SITES)), conditional()
    noise = lambda: Noise(0, 3, torch.arange(6))  # noqa: E731
    read = replaced(z, prior(C[:6]), keep, noise())
    logits = prior.network(read, C[:6, None] + K)
    expected = -cross_entropy(logits.mT, z, reduction="none").sum(-1)
    torch.testing.assert_close(TeacherForced(keep)(prior(C[:6]), z, noise()), expected)
    assert torch.equal(replaced(z, prior(C[:6]), 1.0, noise()), z)


def test_what_is_replaced_is_independent_of_what_a_random_posterior_drew():
    """Within 5 standard errors for each of the eight codes of two sites: error rate 6e-7 each."""
    n, keep, seen = 20_000, 0.5, []

    def objective(p, z, noise):
        seen.append((z, replaced(z, p, keep, noise)))
        return p.log_prob(z)

    model, learner = second_stage(tiny_model(codes=8), Uniform(SITES, 8)), SecondStage(posterior("factorised", codes=8), objective)
    next(learner.losses(model, Batch(tiny_images(n), index=torch.arange(n))))
    ((z, read),) = seen
    share = (1 - keep) * (1 - 1 / 8)  # a code drawn in its place may be the same
    for site in range(SITES):
        for code in range(8):
            changed = (read != z)[z[:, site] == code, site].double()
            assert abs(changed.mean() - share) < 5 * math.sqrt(share * (1 - share) / len(changed))


def test_dropped_conditions_are_independent_of_what_a_random_posterior_drew():
    """As above, for the first number that an objective asks for, which decides about the condition."""
    n, seen = 20_000, []

    def objective(p, z, noise):
        seen.append((z, noise.uniform((), ()) < 0.5))
        return p.log_prob(z)

    model, learner = second_stage(tiny_model(codes=8), Uniform(SITES, 8)), SecondStage(posterior("factorised", codes=8), objective)
    next(learner.losses(model, Batch(tiny_images(n), index=torch.arange(n))))
    ((z, dropped),) = seen
    for code in range(8):
        chosen = dropped[z[:, 0] == code].double()
        assert abs(chosen.mean() - 0.5) < 2.5 / math.sqrt(len(chosen))


def test_replaced_codes_are_uniform_and_as_many_as_asked():
    """Within 5 standard errors: error rate 6e-7 each."""
    n, keep = 20_000, 0.7
    p = Uniform(2, (2, 4))()
    z = torch.zeros(n, 2, dtype=torch.long)
    read = replaced(z, p, keep, Noise(0, 0, torch.arange(n)))
    for site, k in enumerate((2, 4)):
        for code in range(k):
            share = (1 - keep) / k + keep * (code == 0)
            assert abs((read[:, site] == code).double().mean() - share) < 5 * math.sqrt(share * (1 - share) / n)


def test_dropped_conditions_are_those_of_the_noise():
    z, prior = torch.randint(K, (6, SITES)), conditional()
    noise = lambda: Noise(0, 9, torch.arange(6))  # noqa: E731
    marked = noise().uniform((), ()) < 0.5
    assert 0 < marked.sum() < 6
    torch.testing.assert_close(TeacherForced(drop=0.5)(prior(C[:6]), z, noise()), prior(C[:6]).unconditioned(marked).log_prob(z))


def test_the_masked_objective_is_the_bound():
    prior = Masked(stirred(lambda: MaskedTransformer((K,) * SITES, 8, 1, 2, (2, 1))), Conditioning(Labels(2)))
    z = torch.randint(K, (6, SITES))
    noise = lambda: Noise(0, 9, torch.arange(6))  # noqa: E731
    torch.testing.assert_close(MaskedSites(cosine_share)(prior(C[:6]), z, noise()), prior(C[:6]).bound(z, noise(), cosine_share))
    assert MaskedSites(drop=0.5)(prior(C[:6]), z, noise()).isfinite().all()
    with pytest.raises(TypeError, match="hides codes from a masked prior, not from AutoregressiveCodes"):
        MaskedSites()(conditional()(C[:6]), z, noise())
    with pytest.raises(TypeError, match="learn by MaskedSites"):
        TeacherForced()(prior(C[:6]), z, noise())


@pytest.mark.parametrize(
    ("kind", "objective"), [("gpt", TeacherForced()), pytest.param("ordered", TeacherForced(), marks=pytest.mark.slow), ("masked", MaskedSites())]
)
def test_it_finds_the_distribution_of_the_codes(kind, objective, unchecked):
    """Two sites of three codes whose joint has a different shape for each label: after 300 updates the prior is within 0.03 of it in total variation."""
    weights = torch.rand(2, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64).pow(3)
    weights = weights / weights.sum(-1, keepdim=True)
    counts = (weights * 1000).round().long()
    table = all_codes((K,) * SITES)
    z = torch.cat([table.repeat_interleave(count, 0) for count in counts])
    c = torch.arange(2).repeat_interleave(counts.sum(-1))
    torch.manual_seed(0)
    prior = {
        "gpt": lambda: Autoregressive(GPT((K,) * SITES, Size(5, 2, 16, 1, 2)), Conditioning(Shifted(Labels(2), K))),
        "ordered": lambda: InOrder(Autoregressive(GPT((K,) * SITES, Size(5, 2, 16, 1, 2)), Conditioning(Shifted(Labels(2), K))), torch.tensor([1, 0])),
        "masked": lambda: Masked(MaskedTransformer((K,) * SITES, 16, 1, 2, (2, 1)), Conditioning(Labels(2))),
    }[kind]()
    model, learner = second_stage(tiny_model().float(), prior), SecondStage(posterior("nearest_code").float(), objective)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    rows = [torch.randint(len(z), (256,), generator=torch.Generator().manual_seed(step)) for step in range(300)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in fit(model, learner, (Batch(z[row], c[row], z[row], row) for row in rows), optimizer):
        schedule.step()
    with torch.no_grad():
        q = prior.eval()(torch.arange(2))
        each = table.unsqueeze(1).expand(-1, 2, -1)
        if isinstance(q, MaskedCodes):
            log_p = torch.stack([q.log_prob_in_order(each, torch.tensor(order)) for order in ([0, 1], [1, 0])]).logsumexp(0) - math.log(2)
        else:
            log_p = q.log_prob(each)
    wanted = counts.double() / counts.sum(-1, keepdim=True)
    assert 0.5 * (log_p.exp().T - wanted).abs().sum(-1).max() < 0.03


def test_what_cannot_be_learned_is_refused(unchecked):
    model, learner = second_stage(tiny_model(), conditional()), SecondStage(posterior("nearest_code"))
    optimizer = torch.optim.Adam(model.prior.parameters())
    good = torch.zeros(6, SITES, dtype=torch.long)
    for z, message in (
        (good[:, :1], r"has 2 sites, so codes must have shape \(B, 2\); got \(6, 1\)"),
        (good.view(6, 1, 2), r"codes must have shape \(B, 2\); got \(6, 1, 2\)"),
        (good + 3, r"codes must lie in 0..2; got values from 3 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            next(fit(model, learner, [batch(z=z)], optimizer))
    with pytest.raises(TypeError, match="codes are whole numbers"):
        check_codes(good.double(), model.prior)
    with pytest.raises(ValueError, match="a condition goes with each of 6 data, got 5"):
        next(fit(model, learner, [batch(z=good)._replace(c=C[:5])], optimizer))
    with pytest.raises(ValueError, match="labels must lie in 0..1; got values from 0 to 2"):
        next(fit(model, learner, [batch(z=good)._replace(c=torch.tensor([0, 1, 2, 0, 0, 0]))], optimizer))
    with pytest.raises(ValueError, match="images must have shape"):
        next(fit(model, learner, [Batch(X[:6, :, :1], C[:6])], optimizer))
    for sites, codes, message in (
        (3, 3, "3 sites of 3 codes"),
        (2, 4, "2 sites of 4 codes"),
        (2, 2, "2 sites of 2 codes"),
        (2, (3, 2), r"2 sites of \(3, 2\) codes"),
    ):
        with pytest.raises(ValueError, match=f"the first stage has 2 sites of 3 codes, the prior {message}: build the prior with cardinalities="):
            second_stage(tiny_model(), Uniform(sites, codes))
    for wrong in ({"keep": 1.5}, {"drop": -0.1}):
        with pytest.raises(ValueError, match="is a probability"):
            TeacherForced(**wrong)
    with pytest.raises(ValueError, match="drop is a probability"):
        MaskedSites(drop=2.0)


def test_micro_batches_make_the_same_run():
    ends = []
    for accumulate in (1, 2):
        model, learner = second_stage(tiny_model(), conditional()), SecondStage(posterior("factorised"), TeacherForced(0.7, 0.3))
        learner.seed = 4
        for _ in fit(model, learner, Batches(X, 5, 4, c=C), torch.optim.SGD(model.prior.parameters(), 0.1), accumulate):
            pass
        ends.append({n: p for n, p in model.prior.state_dict().items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=1e-10, rtol=0)


def test_orders_and_masks_are_priors_of_the_model():
    """A model under an ordered prior dreams and scores as any other."""
    prior = InOrder(Autoregressive(stirred(lambda: GPT((K,) * 4, Size(4, 4, 8, 1, 2), start=3))), z_curve(2, 2))
    model = second_stage(tiny_model(sites=4), prior)
    x, z = model.sample(5, noise=Noise(0, 0, torch.arange(5)))
    torch.testing.assert_close(model.log_joint(x, z), model.log_likelihood(x, z) + prior().log_prob(z))
    assert isinstance(prior().written, AutoregressiveCodes)
    assert isinstance(prior, nn.Module)
