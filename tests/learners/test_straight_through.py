"""The VQ-VAE's learner: its gradient, which is the gradient of no function, against its definition worked out by hand."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.learners.straight_through import StraightThrough
from tests.learners.contract import adam, batches, made, trained
from tests.learners.tuples import gradient
from tests.scenarios import posterior, tiny_images, tiny_model

X = tiny_images(4)
W, BETA = 0.7, 0.3


def parts(codebook=None, learned_prior: bool = True):
    """A model, a learner, its loss, and by hand: h, z, e (a leaf), and -log p(x|e) averaged over images."""
    model = tiny_model(learned_prior=learned_prior, **({} if codebook is None else {"codebook": codebook}))
    learner = StraightThrough(posterior("nearest_code"), W, BETA)
    (loss,) = learner.losses(model, Batch(X))
    h, codes = learner.posterior.encoder(X), model.codebook.weight.detach()
    z = torch.tensor([[min(range(3), key=lambda k: float((point - codes[k]).square().sum())) for point in row] for row in h.detach()])
    e = codes[z].requires_grad_()
    on = model.decoder(e).sigmoid()
    nll = -(X * on.log() + (1 - X) * (1 - on).log()).sum((-3, -2, -1)).mean()
    return model, learner, loss, h, z, e, nll


def test_the_value_is_the_sum_of_its_terms():
    model, _, loss, h, z, e, nll = parts()
    m_loss = nll - model.prior().log_prob(z).mean()
    distance = sum(float((h[b, i] - e[b, i]).detach().square().sum()) for b in range(len(X)) for i in range(2)) / len(X)
    torch.testing.assert_close(loss.metrics["m_loss"], m_loss.detach())
    assert float(loss.metrics["codebook"]) == float(loss.metrics["commitment"]) == pytest.approx(distance)
    torch.testing.assert_close(loss.value, m_loss + (W + BETA) * distance)
    torch.testing.assert_close(loss.output, model.decode(e).mean)


def test_the_encoder_hears_the_decoder_s_gradient_at_e_and_the_commitment():
    """d loss / d h = d(-log p) / d e + 2 beta (h - e), pushed through the encoder."""
    _, learner, loss, h, _, e, nll = parts()
    (at_e,) = torch.autograd.grad(nll, e)
    phi = list(learner.parameters())
    wanted = gradient((h * (at_e + 2 * BETA * (h - e).detach() / len(X)).detach()).sum(), phi)
    torch.testing.assert_close(gradient(loss.value, phi), wanted)
    assert wanted.norm() > 0.01


def test_the_codebook_hears_the_outputs_assigned_to_it_and_not_the_decoder():
    """d loss / d e_k = 2 w sum over assigned outputs of (e_k - h) / B."""
    model, _, loss, h, z, _, _ = parts()
    wanted = torch.zeros_like(model.codebook.weight)
    for b in range(len(X)):
        for i in range(2):
            wanted[z[b, i]] += 2 * W * (model.codebook.weight[z[b, i]] - h[b, i]).detach() / len(X)
    torch.testing.assert_close(gradient(loss.value, [model.codebook.weight]), wanted.flatten())
    assert z.unique().numel() > 1


def test_decoder_and_prior_descend_the_joint_at_the_chosen_codes():
    model, _, loss, _, z, _, nll = parts()
    rest = [*model.decoder.parameters(), *model.prior.parameters()]
    torch.testing.assert_close(gradient(loss.value, rest), gradient(nll - model.prior().log_prob(z).mean(), rest))


def test_a_codebook_of_running_means_is_no_parameter_and_learns_after_the_update():
    model, learner, loss, h, z, _, _ = parts(EMACodebook)
    assert all(p.shape != model.codebook.weight.shape or p is not model.codebook.weight for p in loss.learns)
    assert not model.codebook.weight.requires_grad
    before = model.codebook.weight.clone()
    learner.update(model, dict(loss.statistics))
    counts = torch.stack([(z == k).sum() for k in range(3)]).double()
    sums = torch.stack([h[z == k].sum(0) for k in range(3)])
    torch.testing.assert_close(model.codebook.weight, (0.99 * before + 0.01 * sums) / (0.99 + 0.01 * counts).unsqueeze(-1))


@pytest.mark.parametrize("name", ["vq_restart", "vq_ema_restart"])
def test_dead_codes_do_restart_in_the_runs_of_the_shared_contract(name):
    model, learner = made(name)
    usage = []
    for batch in batches(4):
        trained(model, learner, [batch])
        usage.append(model.codebook.usage.clone())
    assert (torch.stack(usage) == 2 * model.codebook.restart).any()


@pytest.mark.usefixtures("unchecked")  # else the annotations refuse it first, with less to say
def test_another_posterior_is_refused():
    with pytest.raises(TypeError, match="it wants a NearestCode posterior, not Factorised"):
        StraightThrough(posterior("factorised"))


def test_the_commitment_pulls_outputs_to_their_codes():
    """With the commitment alone, encoder outputs end at their code vectors."""
    model, learner = tiny_model(), StraightThrough(posterior("nearest_code"), 0.0, 50.0)
    optimizer = adam(model, learner, 0.05)

    def distance() -> float:
        return float(next(learner.losses(model, Batch(X))).metrics["commitment"])

    start = distance()
    for _ in range(100):
        optimizer.zero_grad()
        next(learner.losses(model, Batch(X))).value.backward()
        optimizer.step()
    assert distance() < 0.2 * start
