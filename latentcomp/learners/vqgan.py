"""VQGAN (Esser et al., 2021, "Taming Transformers"): a first stage whose reconstructions are also judged by a critic.

The learner wraps another one and yields its losses. To each that moves the decoder it adds the generator's side of a game with the critic,

    L_base + ramp lambda L_generator(D(x_hat)),     lambda = |grad_L L_base| / (|grad_L L_generator| + delta),          (eq. 6 and 7)

with L the decoder's last layer, and yields the critic's own loss behind it. With ``StraightThrough`` and a ``PerceptualEnergy`` at T = 1 that is the
published VQGAN; with ``GumbelSoftmax`` its Gumbel variant; with ``GFlowNetEM`` the same model under another posterior. Without a critic it is the wrapped
learner.

Minimises: what the wrapped learner minimises, plus the generator's side of one of ``phases.games``; the critic minimises its side, and
``objectives.lecam_loss`` where asked for. The optimum is an equilibrium, no maximum of a likelihood: a critic's term is not in nats.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.learners.learner import Learner, Loss, trainable
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.model import LatentVariableModel
from latentcomp.nn.lpips import DropoutLPIPS
from latentcomp.noise import Noise
from latentcomp.phases.critic import Critic
from latentcomp.posteriors.nearest_code import NearestCode

OWN = 0x7667616E  # keys the noise of dropout and of what the critic sees, which the wrapped learner does not draw


class VQGAN(Learner):
    """The first stage of Taming Transformers.

    Args:
        learner: the learner whose losses it extends; a ``NearestCode`` posterior stands for ``StraightThrough`` with it.
        critic: network, game, weight and ramp; None for the reconstruction alone.

    Raises:
        TypeError: the critic is a bare network.
    """

    def __init__(self, learner: Learner | NearestCode, critic: Critic | None = None) -> None:
        base = StraightThrough(learner) if isinstance(learner, NearestCode) else learner
        super().__init__(base.posterior)
        if critic is not None and not isinstance(critic, Critic):
            raise TypeError(f"VQGAN wants a Critic, which says what game the network plays; got {type(critic).__name__}: pass Critic(network, ...)")
        self.learner, self.critic = base, critic
        self.feeds_codebook = base.feeds_codebook

    def check(self, model: LatentVariableModel, batch: Batch) -> None:
        """Refuses what the wrapped learner refuses, and what the critic would refuse only when it begins to count."""
        self.learner.check(model, batch)
        if self.critic is not None:
            self.critic.check(model, batch.x)

    def losses(self, model: LatentVariableModel, batch: Batch) -> Iterator[Loss]:
        """The wrapped learner's updates with the generator's side added, and the critic's update behind each that moves the decoder."""
        noise = Noise(self.seed ^ OWN, self.step, batch.positions)
        for loss in self._base(model, batch, noise):
            critic = self.critic
            if critic is None or not critic.ramp.learns(self.step) or not _moves(loss, model):
                yield loss
                continue
            x_hat, weight = self._made(model, batch, loss, noise), None
            if critic.ramp(self.step) > 0:
                turn = critic.against(model, loss.value, x_hat, self.step)
                loss, weight = loss._replace(value=loss.value + turn.value, metrics={**loss.metrics, **turn.metrics}, output=x_hat), turn.weight
            yield loss
            x_hat = self._made(model, batch, None, noise) if critic.renewed else x_hat.detach()
            value, metrics, statistics = critic.judgement(batch.x, x_hat, weight)
            yield Loss("critic", value, trainable(critic), metrics, statistics)

    def _base(self, model: LatentVariableModel, batch: Batch, noise: Noise) -> Iterator[Loss]:
        """The wrapped learner's losses, each computed with the distance's dropout on this batch's own noise."""
        self.learner.seed, self.learner.step = self.seed, self.step
        noisy = [module for module in model.likelihood.modules() if isinstance(module, DropoutLPIPS)]
        losses = self.learner.losses(model, batch)
        while True:
            for module in noisy:
                module.noise = noise
            loss = next(losses, None)
            for module in noisy:
                module.noise = None
            if loss is None:
                return
            yield loss

    def _made(self, model: LatentVariableModel, batch: Batch, loss: Loss | None, noise: Noise) -> Tensor:
        """The loss's own reconstruction; where it has none, or for no loss at all, that of a code of the posterior that acts."""
        if loss is not None and loss.output is not None:
            return loss.output
        with torch.no_grad():
            z = self.learner.acting(model, batch.x, batch.c).sample((1,), noise)[0]
        with torch.set_grad_enabled(loss is not None):
            return model.decode(model.codebook(z)).mean

    def update(self, model: LatentVariableModel, statistics: dict[str, Tensor]) -> None:
        """The wrapped learner's state, and the critic's."""
        self.learner.update(model, statistics)
        if self.critic is not None:
            self.critic.update(statistics)
        super().update(model, statistics)


def _moves(loss: Loss, model: LatentVariableModel) -> bool:
    """Whether the update may change the decoder."""
    learns = {id(p) for p in loss.learns}
    return any(id(p) in learns for p in model.decoder.parameters())
