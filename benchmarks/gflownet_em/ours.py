"""Our side: the library's own objects, trained by its own loop; nothing here is made for the benchmark.

An update is what :func:`latentcomp.train.fit` makes of one batch. x is encoded once, the 16 sites are sampled from its features, all prefixes are scored in
one pass, and log p(x, z) of an E-step is computed without a gradient.
"""

import math
from itertools import repeat

import torch
from torch import Tensor

from benchmarks.gflownet_em.sides import RATES, SITES, SLEEP_WEIGHT, Setting, Side
from experiments.published.m_step import PublishedMStep
from experiments.published.policy import PublishedPolicy
from latentcomp.batch import Batch
from latentcomp.codebook.codebook import Codebook
from latentcomp.evaluate import importance
from latentcomp.learners.alternating import Alternating
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.convolutional import ConvDecoder, ConvTrunk
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import ScalarLogZ, TrajectoryBalance
from latentcomp.phases.schedule import OnlyE, Period
from latentcomp.phases.sleep import Sleep
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.priors import Uniform
from latentcomp.train import fit


class Ours(Side):
    """The faithful preset of the library.

    Args:
        setting: the sizes.
        x: the images of the steps.
    """

    def __init__(self, setting: Setting, x: Tensor) -> None:
        super().__init__(setting, x)
        self.model, self.posterior = (module.to(setting.device) for module in networks(setting))
        self.objective = objective(setting).to(setting.device)
        self.expectation = GFlowNetEM(self.posterior, self.objective, OnPolicy(1), OnlyE())
        sleep = Alternating(self.posterior, schedule=OnlyE(), sleep=Sleep(SLEEP_WEIGHT / SITES))  # without an objective the E-step is its sleep phase
        maximisation = GFlowNetEM(self.posterior, self.objective, OnPolicy(1), Period(0, 1), PublishedMStep(greedy=True))
        self.optimizer = optimizer(self.model, self.expectation)
        self._steps = {
            name: fit(self.model, learner, repeat(Batch(x)), self.optimizer)
            for name, learner in {"e": self.expectation, "sleep": sleep, "m": maximisation}.items()
        }

    def e_step(self) -> None:
        """One round of the loop, its batch an E-step."""
        next(self._steps["e"])

    def sleep_step(self) -> None:
        """One round of the loop, its batch a sleep phase."""
        next(self._steps["sleep"])

    def m_step(self) -> None:
        """One round of the loop, its batch an M-step."""
        next(self._steps["m"])

    def log_px(self, x: Tensor, samples: int) -> Tensor:
        """The library's estimate with plain samples of q, as the published code draws them."""
        return importance.log_px(self.model, self.posterior, x, samples=samples, prior_share=0.0).log_px


def networks(setting: Setting) -> tuple[LatentVariableModel, Autoregressive]:
    """p(x, z) and q(z|x) with the published layers."""
    decoder = ConvDecoder(setting.channels, 1)
    model = LatentVariableModel(Uniform(SITES, setting.codes), Codebook(setting.codes, 1), decoder, Bernoulli())
    policy = PublishedPolicy((setting.codes,) * SITES, setting.channels)
    return model, Autoregressive(ConvTrunk(setting.channels, setting.channels // 2), policy)


def objective(setting: Setting) -> TrajectoryBalance:
    """Trajectory balance for each site with one log Z for all images. The published reward leaves out log p(z) = -16 log K, which log Z takes up here."""
    return TrajectoryBalance(ScalarLogZ(1 - math.log(setting.codes)), faithful=True, per_site=True)


def optimizer(model: torch.nn.Module, learner: torch.nn.Module, rates: dict[str, float] = RATES, capturable: bool = False) -> torch.optim.Adam:
    """Adam with a learning rate of its own for log Z."""
    named = [*model.named_parameters(), *learner.named_parameters()]
    groups = {key: [p for name, p in named if ("log_z" in name) == (key == "log_z")] for key in rates}
    return torch.optim.Adam([{"params": members, "lr": rates[key]} for key, members in groups.items() if members], capturable=capturable)
