"""Every learner, on a tiny model in float64: what the shared contract is run on."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

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
from latentcomp.codes.masked import cosine_share
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.em import EM
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.gumbel_softmax import GumbelSoftmax, Relaxation
from latentcomp.learners.learner import Learner
from latentcomp.learners.memoised_wake_sleep import MemoisedWakeSleep
from latentcomp.learners.monte_carlo_em import MonteCarloEM
from latentcomp.learners.reinforce import Reinforce
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.learners.vimco import Vimco
from latentcomp.learners.vqgan import VQGAN
from latentcomp.learners.wake_sleep import WakeSleep
from latentcomp.learners.warm_start import WarmStart
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.moves import Gibbs, LocalSearch
from latentcomp.nn.critic import PatchCritic
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.objectives import rotation_trick
from latentcomp.phases.behaviour import Exploring, FromPosterior, Mixed, Moved, OnPolicy
from latentcomp.phases.chains import Chains
from latentcomp.phases.code_entropy import CodeEntropy
from latentcomp.phases.critic import AdaptiveWeight, Critic, FixedWeight, LeCAM, Ramp
from latentcomp.phases.e_step import AmortisedLogZ, LogVariance, ScalarLogZ, TrajectoryBalance, WakePhi
from latentcomp.phases.flows import DetailedBalance, PrefixFlow, SubTrajectoryBalance
from latentcomp.phases.m_step import Greedy, ImportanceWeighted, Sampled
from latentcomp.phases.replay import Memory, Replay
from latentcomp.phases.schedule import Period, Threshold, Together
from latentcomp.phases.second_stage import MaskedSites, TeacherForced
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.priors import Masked, Uniform
from latentcomp.train import fit
from tests.scenarios import FEATURES, IMAGE, WIDTH, posterior, tiny_images, tiny_model

STATE = 2 * WIDTH  # the context of a softmax-distance posterior is its encoder's output, N D numbers


def memory(capacity: int = 4) -> Memory:
    """For the positions that ``batches`` gives its data."""
    return Memory(len(X) + 100, 2, capacity)


def critic(game: str, renewed: bool = False) -> Critic:
    """One that learns from the second step on and counts from the third; its lambda is fixed, since a ratio of gradients is each micro-batch's own."""
    torch.manual_seed(4)
    network = nn.Sequential(nn.Conv2d(1, 4, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 1))
    return Critic(network, game, FixedWeight(0.3), Ramp(2, 2, 1), LeCAM(0.5, 0.8), renewed)


def exchanging(ramp: Ramp = Ramp(3, 4, 2)) -> VQGAN:  # noqa: B008 - an immutable tuple
    """One that speaks to other processes inside its losses: the adaptive weight, and a patch critic with its usual norm, the shared batch norm."""
    torch.manual_seed(4)
    network = nn.Sequential(nn.Upsample(scale_factor=8.0), PatchCritic(1, 2, 1))
    return VQGAN(posterior("nearest_code"), Critic(network, "hinge", AdaptiveWeight(), ramp, LeCAM(0.5, 0.8)))


LEARNERS: dict[str, Callable[[], Learner]] = {
    "em_soft": EM,
    "em_hard": lambda: EM(Mode(Exact()), Greedy()),
    "em_sampled": lambda: EM(Exact(), Sampled(2)),
    "vq_gradient": lambda: StraightThrough(posterior("nearest_code"), 0.7, 0.3),
    "vq_restart": lambda: StraightThrough(posterior("nearest_code")),
    "vq_ema": lambda: StraightThrough(posterior("nearest_code")),
    "vq_ema_restart": lambda: StraightThrough(posterior("nearest_code")),
    "vq_kmeans": lambda: StraightThrough(posterior("nearest_code"), gradient=rotation_trick),
    "vq_ema_kmeans": lambda: StraightThrough(posterior("nearest_code"), gradient=rotation_trick),
    "vq_sphere": lambda: StraightThrough(posterior("nearest_code")),
    "sim_vq": lambda: StraightThrough(posterior("nearest_code"), gradient=rotation_trick),
    "vqgan": lambda: VQGAN(posterior("nearest_code")),
    "gumbel_soft": lambda: GumbelSoftmax(posterior("factorised")),
    "gumbel_hard": lambda: GumbelSoftmax(posterior("softmax_distance"), Relaxation(hard=True), sleep=Sleep(probability=0.5)),
    "gumbel_period": lambda: GumbelSoftmax(posterior("factorised"), behaviour=Exploring(1, 0.2), schedule=Period(2, 1)),
    "reinforce": lambda: Reinforce(posterior("prefix_mlp"), OnPolicy(3), sleep=Sleep(probability=0.5)),
    "reinforce_off_policy": lambda: Reinforce(posterior("factorised"), Exploring(3, 0.2, 1.5), Together()),
    "wake_sleep": lambda: WakeSleep(posterior("prefix_mlp")),
    "reweighted_wake_sleep": lambda: WakeSleep(posterior("transformer"), WakePhi(), OnPolicy(3)),
    "gflownet_log_variance": lambda: GFlowNetEM(posterior("transformer"), LogVariance(), Exploring(4, 0.1, 2.0), Period(1, 2, "M"), sleep=Sleep(0.5)),
    "gflownet_amortised_log_z": lambda: GFlowNetEM(posterior("prefix_mlp"), TrajectoryBalance(AmortisedLogZ(FEATURES, 4)), Exploring(2), m_step=Greedy()),
    "gflownet_scalar_log_z": lambda: GFlowNetEM(posterior("softmax_distance"), TrajectoryBalance(ScalarLogZ()), schedule=Period(2, 1)),
    "gflownet_threshold": lambda: GFlowNetEM(
        posterior("softmax_distance"), TrajectoryBalance(AmortisedLogZ(STATE, 4)), schedule=Threshold(3.0, 3, 0.5), m_step=ImportanceWeighted(3)
    ),
    "gflownet_replay": lambda: GFlowNetEM(
        posterior("prefix_mlp"), LogVariance(), Mixed([Exploring(2, 0.1), Replay(memory(), 2), Moved(Replay(memory()), Gibbs())]), sleep=Sleep(0.5)
    ),
    "gflownet_local_search": lambda: GFlowNetEM(
        posterior("transformer"), TrajectoryBalance(AmortisedLogZ(FEATURES, 4)), Moved(Replay(memory(3), 3), LocalSearch(0.1), 2), Period(2, 1)
    ),
    "gflownet_detailed_balance": lambda: GFlowNetEM(posterior("prefix_mlp"), DetailedBalance(PrefixFlow(8, 4)), Exploring(2, 0.1)),
    "gflownet_sub_trajectories": lambda: GFlowNetEM(
        posterior("transformer"), SubTrajectoryBalance(PrefixFlow(8, 4)), Exploring(2), Threshold(3.0, 3, 0.5), sleep=Sleep(0.5)
    ),
    "vimco": lambda: Vimco(posterior("prefix_mlp"), 3),
    "vimco_period": lambda: Vimco(posterior("factorised"), 2, Period(2, 1), Sleep()),
    "monte_carlo_em": lambda: MonteCarloEM(posterior("prefix_mlp"), Chains(Gibbs(), len(X) + 100, 2, 2)),
    "monte_carlo_em_period": lambda: MonteCarloEM(posterior("factorised"), Chains(LocalSearch(), len(X) + 100, 2, 1, 2), Period(2, 1), Sleep()),
    "memoised_wake_sleep": lambda: MemoisedWakeSleep(posterior("prefix_mlp"), memory(3), sleep=Sleep()),
    "fsq": lambda: StraightThrough(posterior("nearest_code"), 0.0, 0.0),
    "residual": lambda: StraightThrough(posterior("nearest_code"), 0.7, 0.3, rotation_trick),
    "residual_ema": lambda: StraightThrough(posterior("nearest_code")),
    "exact_samples": lambda: Alternating(posterior("prefix_mlp"), WakePhi(), FromPosterior(Exact(), 3)),
    "second_stage": lambda: SecondStage(posterior("nearest_code"), TeacherForced(0.7)),
    "second_stage_factorised": lambda: SecondStage(posterior("factorised")),
    "memoised_together": lambda: MemoisedWakeSleep(posterior("factorised"), memory(3), Moved(Exploring(2, 0.2), Gibbs()), Together()),
}
LEARNERS["vqgan_critic"] = lambda: VQGAN(StraightThrough(posterior("nearest_code")), critic("hinge"))
LEARNERS["vqgan_gumbel"] = lambda: VQGAN(LEARNERS["gumbel_hard"](), critic("min_max", renewed=True))
LEARNERS["vqgan_gflownet"] = lambda: VQGAN(LEARNERS["gflownet_replay"](), critic("non_saturating"))
LEARNERS["warm_start"] = lambda: WarmStart(StraightThrough(posterior("nearest_code")), LEARNERS["gflownet_replay"](), 2)
WHOLE: dict[str, Callable[[], Learner]] = {  # they resume and are shared, but do not keep the whole contract: micro-batches change them, say
    "lfq": lambda: StraightThrough(posterior("nearest_code"), 0.0, 0.3, entropy=CodeEntropy(0.3, 1.2, 0.5)),
    "vqgan_adaptive": exchanging,
    "second_stage_masked": lambda: SecondStage(posterior("nearest_code"), MaskedSites(cosine_share)),  # its prior has no log p(z)
}
CODEBOOKS: dict[str, Callable[[int, int], Geometry]] = {
    "vq_kmeans": partial(Codebook, start=KMeans()),
    "vq_ema_kmeans": partial(EMACodebook, restart=0.9, start=KMeans(2), space=Sphere()),
    "vq_sphere": partial(Codebook, restart=0.9, space=Sphere()),
    "sim_vq": SimVQ,
    "vq_restart": partial(Codebook, restart=0.9),
    "vqgan_critic": partial(EMACodebook, restart=0.9, decay=0.8),
    "vq_ema": EMACodebook,
    "vq_ema_restart": partial(EMACodebook, restart=0.9, decay=0.8),
}
LEARNED_PRIOR = {"em_soft", "vimco", "gflownet_replay", "vq_gradient", "reweighted_wake_sleep", "gflownet_log_variance"}
MODELS: dict[str, Callable[[], LatentVariableModel]] = {  # where a codebook is not all that differs
    "fsq": lambda: tiny_model(codes=9, codebook=lambda *_: FSQ((3, 3))),
    "lfq": lambda: tiny_model(codes=4, codebook=lambda codes, _: LFQ(codes)),
    "residual": lambda: residual(Codebook, restart=0.9),
    "residual_ema": lambda: residual(EMACodebook, restart=0.9, decay=0.8, start=KMeans(2)),
    "second_stage": lambda: second_stage(tiny_model(), tiny_model(learned_prior=True, seed=5).prior),
    "second_stage_factorised": lambda: second_stage(tiny_model(), tiny_model(learned_prior=True, seed=5).prior),
    "second_stage_masked": lambda: second_stage(tiny_model(), masked_prior()),
}
X = tiny_images(60).unique(dim=0)[::3][:12]  # all different
assert len(X) == 12


def made(name: str, seed: int = 3) -> tuple[LatentVariableModel, Learner]:
    """A new tiny model and the named learner, the same at every call; codes that may restart are about to die."""
    plain = lambda: tiny_model(learned_prior=name in LEARNED_PRIOR, codebook=CODEBOOKS.get(name, Codebook))  # noqa: E731
    model = MODELS.get(name, plain)()
    for part in model.codebook.modules():
        if isinstance(part, Codebook):
            part.usage.div_(2)
    learner = (LEARNERS | WHOLE)[name]().double()
    learner.seed = seed
    return model, learner


def residual(codebook: Callable[..., Codebook], **settings: Any) -> LatentVariableModel:
    """Two vectors for an image, each the sum of two: four sites of three codes."""
    torch.manual_seed(0)
    books = ResidualVQ([codebook(3, WIDTH, **settings) for _ in range(2)])
    return LatentVariableModel(Uniform(4, 3), books, ImageDecoder(2, WIDTH, (8,), IMAGE), Bernoulli()).double()


def masked_prior() -> Masked:
    """Of the codes of two sites, in any order, as MaskGIT has it."""
    torch.manual_seed(5)
    return Masked(MaskedTransformer((3, 3), width=8, layers=1, heads=2)).double()


def adam(model: LatentVariableModel, learner: Learner, rate: float = 0.01) -> torch.optim.Adam:
    """One Adam over all parameters.

    Some gradients are nought but for rounding, such as those of the keys' biases, which move all logits of an attention alike. Divided by their own size they
    become steps that differ from processor to processor, so epsilon is above that rounding (1e-16) by as much as a step may differ (1e-10).
    """
    return torch.optim.Adam([*model.parameters(), *learner.parameters()], rate, eps=1e-6)


def trained(model: LatentVariableModel, learner: Learner, batches: list[Batch], accumulate: int = 1) -> list[dict[str, Tensor]]:
    """The metrics of a run over the batches."""
    return list(fit(model, learner, batches, adam(model, learner), accumulate))


def batches(updates: int, size: int = 5, start: int = 0) -> list[Batch]:
    """Odd batches, so that micro-batches differ in size; each datum has its own position, not that of its row."""
    rows = [(torch.arange(size) * 5 + 3 * update) % len(X) for update in range(start, updates)]
    return [Batch(X[index], index=index + 100) for index in rows]


def state(*modules: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {f"{i}.{k}": v.clone() for i, module in enumerate(modules) for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """Equal names, and equal values within the tolerance (bit for bit by default)."""
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], atol=tolerance, rtol=0, equal_nan=True, msg=lambda text, key=key: f"{key}: {text}")
