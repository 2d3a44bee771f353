"""VQGAN without a critic is the learner that it wraps; with one, both sides of a game, of which neither leaves anything in the other."""

import pytest
import torch

from latentcomp.codebook import EMACodebook
from latentcomp.energies import PerceptualEnergy
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.learners.learner import Learner, trainable
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vqgan import VQGAN
from latentcomp.learners.warm_start import WarmStart
from latentcomp.nn.critic import PatchCritic
from latentcomp.phases.anneal import Exponential
from latentcomp.phases.critic import AdaptiveWeight, Critic, FixedWeight, LeCAM, Ramp
from latentcomp.phases.schedule import Period
from latentcomp.train import fit
from tests.learners.contract import LEARNERS, adam, assert_same, batches, critic, made, state, trained
from tests.scenarios import posterior, tiny_model


def gumbel() -> Learner:
    return GumbelSoftmax(posterior("factorised"), Relaxation(Exponential(1.0, 0.1, 5)))


def straight_through() -> Learner:
    return StraightThrough(posterior("nearest_code"))


@pytest.mark.parametrize("base", [straight_through, gumbel], ids=["straight_through", "gumbel_softmax"])
def test_it_trains_as_the_learner_that_it_wraps(base):
    runs = []
    for wrap in (lambda learner: learner, VQGAN):
        model, learner = tiny_model(), wrap(base().double())
        learner.seed = 4
        metrics = trained(model, learner, batches(4))
        runs.append((state(model, learner.posterior), metrics))
    assert_same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert learner.step == learner.learner.step == 4


def test_a_nearest_code_posterior_stands_for_straight_through():
    q = posterior("nearest_code")
    learner = VQGAN(q)
    assert isinstance(learner.learner, StraightThrough)
    assert learner.posterior is q
    assert len(list(learner.parameters())) == len(list(q.parameters()))
    assert learner.learner.commitment_weight == 0.25


@pytest.mark.parametrize("weight", [FixedWeight(0.3), AdaptiveWeight()], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("game", ["hinge", "vanilla", "non_saturating", "min_max"])
def test_the_two_losses_are_the_sums_written_out(game, weight):
    """In value and in every gradient, with the reconstruction loss of a second learner and the critic's network applied by hand."""
    model, batch = tiny_model(), batches(1)[0]
    learner = VQGAN(straight_through(), Critic(critic(game).network, game, weight)).double()
    losses = learner.losses(model, batch)
    first = next(losses)
    (base,) = learner.learner.losses(model, batch)
    logits = learner.critic.network(base.output)
    side = {
        "hinge": -logits.mean(),
        "vanilla": -logits.mean(),
        "non_saturating": -logits.sigmoid().log().mean(),
        "min_max": (1 - logits.sigmoid()).log().mean(),
    }[game]
    factor = torch.tensor(0.3, dtype=torch.float64)
    if isinstance(weight, AdaptiveWeight):
        pair = [torch.autograd.grad(loss, model.decoder.last_weight, retain_graph=True)[0].norm() for loss in (base.value, side)]
        factor = 0.8 * pair[0] / (pair[1] + 1e-4)
    wanted = base.value + factor * side
    torch.testing.assert_close(first.value, wanted)
    assert {id(p) for p in first.learns} == {id(p) for p in base.learns}
    for given, by_hand in zip(torch.autograd.grad(first.value, first.learns), torch.autograd.grad(wanted, base.learns), strict=True):
        torch.testing.assert_close(given, by_hand)
    second = next(losses)
    assert second.term == "critic"
    assert {id(p) for p in second.learns} == {id(p) for p in learner.critic.parameters()}
    real, fake = learner.critic.network(batch.x), learner.critic.network(base.output.detach())
    logistic = -real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()
    judged = {"hinge": ((1 - real).relu().mean() + (1 + fake).relu().mean()) / 2, "min_max": factor * logistic}.get(game, logistic / 2)
    torch.testing.assert_close(second.value, judged)
    assert next(losses, None) is None


def test_before_the_ramp_the_critic_learns_alone_and_before_that_there_is_none():
    model, learner = tiny_model(), VQGAN(straight_through(), critic("hinge")).double()
    alone = VQGAN(straight_through()).double()
    other = tiny_model()
    terms, runs = [], []
    for net, wrapped in ((model, learner), (other, alone)):
        optimizer = adam(net, wrapped)
        for batch in batches(4):
            terms.append([])
            for loss in wrapped.losses(net, batch):
                terms[-1].append((loss.term, "lambda" in loss.metrics))
                optimizer.zero_grad(set_to_none=True)
                loss.value.backward(inputs=loss.learns)
                optimizer.step()
            wrapped.update(net, {})
            runs.append(state(net, wrapped.posterior))
    assert terms[:4] == [[("VQ", False)], [("VQ", False), ("critic", False)], [("VQ", True), ("critic", False)], [("VQ", True), ("critic", False)]]
    assert_same(runs[1], runs[5])
    assert any(not torch.equal(runs[2][key], runs[6][key]) for key in runs[2])


def test_a_renewed_critic_judges_the_updated_generator():
    model, learner = tiny_model(), VQGAN(straight_through(), Critic(critic("hinge").network, renewed=True)).double()
    optimizer, batch = adam(model, learner, 0.1), batches(1)[0]
    losses = learner.losses(model, batch)
    first = next(losses)
    first.value.backward(inputs=first.learns)
    optimizer.step()
    with torch.no_grad():
        x_hat = model.decode(model.codebook(learner.posterior(model, batch.x).mode)).mean
        logits = learner.critic.network(x_hat)
    metrics = next(losses).metrics
    torch.testing.assert_close(metrics["critic_made"], logits.mean())
    assert not torch.allclose(x_hat, first.output)


def test_a_renewed_critic_judges_a_warm_start_s_quantiser_and_afterwards_the_posterior():
    """Before, the critic was shown a policy's codes, while the generator that it teaches was the quantiser."""
    warm = WarmStart(straight_through(), GFlowNetEM(posterior("prefix_mlp"), schedule=Period(1, 1)), 1)
    model, learner = tiny_model(), VQGAN(warm, Critic(critic("hinge").network, renewed=True)).double()
    batch = batches(1)[0]
    judged = {loss.term: loss for loss in learner.losses(model, batch)}["critic"]
    with torch.no_grad():
        x_hat = model.decode(model.codebook(warm.quantiser.posterior(model, batch.x).mode)).mean
        torch.testing.assert_close(judged.metrics["critic_made"], learner.critic.network(x_hat).mean())
    assert learner.learner.acting is warm.quantiser.posterior
    warm.step = 1
    assert learner.learner.acting is learner.posterior is warm.learner.posterior


def test_under_another_posterior_the_critic_sees_images_of_its_codes_after_each_m_step():
    base = GFlowNetEM(posterior("prefix_mlp"), schedule=Period(1, 1))
    model, learner = tiny_model(), VQGAN(base, Critic(critic("hinge").network)).double()
    batch, terms, decoded = batches(1)[0], [], []
    for _ in range(2):
        for loss in learner.losses(model, batch):
            terms.append(loss.term)
            decoded.append(loss.output)
            assert ("lambda" in loss.metrics) == (loss.term == "M-step")
        learner.update(model, {})
    assert terms == ["E-step", "M-step", "critic"]
    codes = model.decoder(model.codebook(learner.posterior(model, batch.x).sample((200,)).flatten(0, 1))).sigmoid().view(200, *batch.x.shape)
    assert all(any(torch.allclose(image, drawn) for drawn in column) for image, column in zip(decoded[1].detach(), codes.movedim(1, 0), strict=True))


def test_the_gumbel_variant_hears_the_critic_through_its_relaxed_codes():
    model, learner = tiny_model(), VQGAN(gumbel(), Critic(critic("hinge").network, weight=FixedWeight(1.0))).double()
    loss = next(learner.losses(model, batches(1)[0]))
    phi = trainable(learner.posterior)
    gradients = torch.autograd.grad(learner.critic.network(loss.output).mean(), phi)
    assert sum(g.abs().sum() for g in gradients) > 0


def test_lecam_s_means_are_those_of_the_step_however_it_is_split():
    ends = []
    for accumulate in (1, 3):
        model, learner = tiny_model(), VQGAN(straight_through(), Critic(critic("hinge").network, "hinge", FixedWeight(0.3), lecam=LeCAM(0.5, 0.8))).double()
        trained(model, learner, batches(3), accumulate)
        ends.append(state(model, learner))
        assert float(learner.critic.lecam.real) != 0
    assert_same(*ends, tolerance=1e-10)


def test_a_critic_s_loss_that_is_not_finite_names_it_and_leaves_the_critic_alone():
    model, learner = tiny_model(), VQGAN(straight_through(), Critic(critic("hinge").network, "hinge", FixedWeight(0.0))).double()
    learner.critic.network[2].bias.data.fill_(torch.inf)
    kept = state(learner.critic)
    with pytest.raises(FloatingPointError, match="the loss of the (VQ|critic) of VQGAN is (nan|inf)"):
        list(fit(model, learner, batches(1), adam(model, learner)))
    assert_same(kept, state(learner.critic))


def test_sleep_is_refused_for_an_energy_by_name():
    model = tiny_model()
    model.likelihood = PerceptualEnergy(temperature=0.1)
    for learner in (LEARNERS["gflownet_log_variance"](), LEARNERS["wake_sleep"](), VQGAN(LEARNERS["gflownet_log_variance"]())):
        learner.double()
        named = type(getattr(learner, "learner", learner)).__name__
        with pytest.raises(ValueError, match=rf"PerceptualEnergy is an unnormalised energy.*{named} with a Sleep phase.*Pass sleep=None"):
            next(fit(model, learner, batches(1), adam(model, learner)))


def test_what_does_not_fit_is_refused_by_name(unchecked):
    with pytest.raises(TypeError, match=r"VQGAN wants a Critic.*got Sequential: pass Critic\(network, ...\)"):
        VQGAN(straight_through(), critic("hinge").network)
    _, learner = made("vqgan_gflownet")
    averaged = tiny_model(codebook=EMACodebook)
    with pytest.raises(ValueError, match="EMACodebook learns from the codes that vector quantisation assigns, and VQGAN assigns none"):
        next(fit(averaged, learner, batches(1), adam(averaged, learner)))
    assert not learner.feeds_codebook
    assert VQGAN(straight_through()).feeds_codebook


def test_what_the_critic_would_refuse_once_it_counts_is_refused_at_once():
    """A run must not fail halfway: images too small for its patches, of other channels, or a decoder that an adaptive weight cannot read."""
    late, model, batch = Ramp(start=1000), tiny_model(), batches(1)[0]

    def check(network, weight=None):
        learner = VQGAN(straight_through(), Critic(network, "hinge", weight, late)).double()
        list(fit(model, learner, [batch], adam(model, learner)))

    with pytest.raises(ValueError, match=r"at least 6 x 6 pixels; got 1 of 2 x 3: build PatchCritic with inputs=1 and fewer layers"):
        check(PatchCritic(1, 4, 1))
    with pytest.raises(ValueError, match=r"judges images of 3 channel\(s\)"):
        check(PatchCritic(3, 4, 0))
    model.decoder = torch.nn.Sequential(model.decoder)
    with pytest.raises(TypeError, match="Sequential does not say which that is: give it a property last_weight"):
        check(critic("hinge").network)
    VQGAN(straight_through(), Critic(critic("hinge").network, "hinge", FixedWeight(0.1), late)).check(model, batch)
