"""Every geometry under every kind of learner: vector quantisation with its gradients worked out by hand, and GFlowNet-EM and EM, which ask for e(z) alone."""

from collections.abc import Callable

import pytest
import torch

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.fsq import FSQ
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lfq import LFQ
from latentcomp.codebook.residual_vq import ResidualVQ
from latentcomp.codebook.sim_vq import SimVQ
from latentcomp.codebook.space import Sphere
from latentcomp.codebook.start import KMeans
from latentcomp.evaluate.exact import exact
from latentcomp.learners.em import EM
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.gumbel_softmax import GumbelSoftmax
from latentcomp.learners.learner import Learner
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder, SiteHead
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.phases.code_entropy import CodeEntropy
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.softmax_distance import SoftmaxDistance
from latentcomp.priors import Uniform
from tests.learners.contract import adam
from tests.learners.tuples import gradient
from tests.scenarios import FEATURES, IMAGE, tiny_images, trunk

SITES = 2  # vectors for each image
X = tiny_images(40).unique(dim=0)[:12]
GEOMETRIES: dict[str, Callable[[], Geometry]] = {
    "sphere": lambda: Codebook(4, 2, space=Sphere()),
    "ema": lambda: EMACodebook(4, 2, 0.5, start=KMeans(3), space=Sphere()),
    "fsq": lambda: FSQ((3, 3)),
    "lfq": lambda: LFQ(4),
    "sim_vq": lambda: SimVQ(4, 2),
    "residual": lambda: ResidualVQ([Codebook(3, 2), Codebook(3, 2)]),
    "residual ema": lambda: ResidualVQ([EMACodebook(3, 2, 0.5, start=KMeans(3)) for _ in range(2)]),
}
each = pytest.mark.parametrize("name", GEOMETRIES)


def model_with(codebook: Geometry) -> LatentVariableModel:
    torch.manual_seed(0)
    prior, decoder = Uniform(SITES * codebook.depth, codebook.codes), ImageDecoder(SITES, codebook.width, (8,), IMAGE)
    return LatentVariableModel(prior, codebook, decoder, Bernoulli()).double()


def made(name: str) -> LatentVariableModel:
    torch.manual_seed(1)
    return model_with(GEOMETRIES[name]())


def quantiser(model: LatentVariableModel, **settings) -> StraightThrough:
    torch.manual_seed(2)
    encoder = torch.nn.Sequential(trunk(), SiteHead(FEATURES, SITES, model.codebook.width))
    return StraightThrough(NearestCode(encoder), **settings).double()


def descended(model: LatentVariableModel, learner: Learner, updates: int = 40, rate: float = 0.04) -> tuple[float, float]:
    """-log p(x) before and after, exact."""
    optimizer = adam(model, learner, rate)
    nll = [-float(exact(model, Exact(), X).log_px.mean())]
    for _ in range(updates):
        rows: dict[str, torch.Tensor] = {}
        for loss in learner.losses(model, Batch(X)):
            optimizer.zero_grad(set_to_none=True)
            loss.value.backward(inputs=loss.learns)
            optimizer.step()
            rows |= loss.statistics
        learner.update(model, rows)
    return nll[0], -float(exact(model, Exact(), X).log_px.mean())


@each
@pytest.mark.parametrize("way", [objectives.straight_through, objectives.rotation_trick])
def test_vector_quantisation_is_its_definition(name, way):
    """Value and gradients from e, h and the pairs, with the decoder's gradient taken at e."""
    model = made(name)
    codebook, learner = model.codebook, quantiser(model, codebook_weight=0.7, commitment_weight=0.3, gradient=way)
    (loss,) = learner.losses(model, Batch(X))
    h = codebook.project(learner.posterior.encoder(X))
    z = codebook.nearest(learner.posterior.encoder(X))
    e = codebook(z).detach().requires_grad_()
    on = model.decoder(e).sigmoid()
    nll = -(X * on.log() + (1 - X) * (1 - on).log()).sum((-3, -2, -1)).mean() - model.prior().log_prob(z).mean()
    target, vectors = codebook.assigned(h, z)
    distance = (target - vectors).square().sum((-2, -1)).mean()
    torch.testing.assert_close(loss.value, nll + distance)
    (at_e,) = torch.autograd.grad(nll, e)
    (at_h,) = torch.autograd.grad(way(h, e.detach()), h, at_e, retain_graph=True)
    phi = list(learner.parameters())
    wanted = gradient((h * at_h.detach()).sum() + 0.3 * (target - vectors.detach()).square().sum((-2, -1)).mean(), phi)
    torch.testing.assert_close(gradient(loss.value, phi), wanted)
    theta = [p for p in codebook.parameters() if p.requires_grad]
    if theta:
        torch.testing.assert_close(gradient(loss.value, theta), gradient(0.7 * (target.detach() - vectors).square().sum((-2, -1)).mean(), theta))


@each
def test_vector_quantisation_learns(name):
    model = made(name)
    weights = {"codebook_weight": 0.0, "commitment_weight": 0.0} if name in ("fsq", "lfq") else {}
    before, after = descended(model, quantiser(model, gradient=objectives.rotation_trick, **weights))
    assert after < before - 0.3


@pytest.mark.parametrize("name", ["sphere", "fsq", "lfq", "sim_vq", "residual"])  # running means learn from assignments alone, and fit() says so
def test_gflownet_em_and_em_learn_with_it(name):
    model = made(name)
    n, k = len(model.cardinalities), model.codebook.codes
    torch.manual_seed(3)
    before, after = descended(model, GFlowNetEM(Autoregressive(trunk(), PrefixMLP((k,) * n, FEATURES, 8))).double())
    assert after < before - 0.3
    before, after = descended(made(name), EM())
    assert after < before - 0.3


def test_relaxed_codes_pass_residual_and_fixed_geometries():
    for name in ("residual", "fsq"):
        model = made(name)
        n, k = len(model.cardinalities), model.codebook.codes
        torch.manual_seed(3)
        before, after = descended(model, GumbelSoftmax(Factorised(trunk(), SiteHead(FEATURES, n, k))).double())
        assert after < before - 0.3


@pytest.mark.parametrize("name", ["sphere", "fsq", "lfq", "sim_vq"])
def test_a_softmax_of_distances_is_that_in_the_codebook_s_space(name):
    model = made(name)
    torch.manual_seed(2)
    q = SoftmaxDistance(torch.nn.Sequential(trunk(), SiteHead(FEATURES, SITES, model.codebook.width)), 0.6).double()
    h = model.codebook.project(q.encoder(X))
    distances = (h.unsqueeze(-2) - model.codebook.vectors).square().sum(-1)
    torch.testing.assert_close(q(model, X).log_p, (-distances / (2 * 0.6**2)).log_softmax(-1))


def test_the_entropy_term_joins_the_loss():
    model = made("lfq")
    plain, with_term = (quantiser(model, entropy=entropy) for entropy in (None, CodeEntropy(0.3, 1.2, 0.5)))
    (a,), (b,) = plain.losses(model, Batch(X)), with_term.losses(model, Batch(X))
    q = (-(with_term.posterior.encoder(X).flatten(0, 1).unsqueeze(-2) - model.codebook.vectors).square().sum(-1) / 0.5).softmax(-1)
    entropy = torch.distributions.Categorical(q).entropy().mean() - 1.2 * torch.distributions.Categorical(q.mean(0)).entropy()
    torch.testing.assert_close(b.value - a.value, 0.3 * entropy)
    torch.testing.assert_close(b.metrics["entropy"], 0.3 * entropy.detach())
    assert "entropy" not in a.metrics


def test_the_entropy_term_brings_codes_into_use():
    """Outputs that start in one corner of the cube spread over all four codes with the term, and stay without it where there is nothing else to learn."""
    used = {}
    for weight in (0.0, 1.0):
        model = made("lfq")
        learner = quantiser(model, codebook_weight=0.0, commitment_weight=0.0, entropy=CodeEntropy(weight, 2.0, 1.0))
        learner.posterior.encoder[1].linear.bias.data.add_(2.0)
        optimizer = torch.optim.Adam(learner.parameters(), 0.02)
        for _ in range(150):
            optimizer.zero_grad()
            h = learner.posterior.encoder(X)
            learner.entropy(model.codebook, h).backward()
            optimizer.step()
        used[weight] = model.codebook.nearest(learner.posterior.encoder(X)).unique().numel()
    assert used[0.0] < used[1.0] == 4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="each vector by 2 codes, but the prior has 3 sites: give it 2 sites for each vector"):
        LatentVariableModel(Uniform(3, 3), GEOMETRIES["residual"](), ImageDecoder(2, 2, (8,), IMAGE), Bernoulli())
    model = made("residual")
    wide = NearestCode(torch.nn.Sequential(trunk(), SiteHead(FEATURES, 4, 2)).double())
    with pytest.raises(ValueError, match=r"vectors h in the codebook's space of shape \(B, 2, 2\): one row for each 2 of the sites; got \(12, 4, 2\)"):
        wide(model, X)
    with pytest.raises(TypeError, match="no single table of K vectors.*SoftmaxDistance"):
        SoftmaxDistance(torch.nn.Sequential(trunk(), SiteHead(FEATURES, 2, 2)).double())(model, X)
    with pytest.raises(ValueError, match="temperature of q.k|h. must be positive, got 0"):
        CodeEntropy(temperature=0.0)
