"""The critic of a VQGAN as a part of its learner: a network, the game it plays, the weight lambda of the generator's side, and from when on it counts.

The generator descends its own loss plus ramp(step) * lambda * (generator's side), the critic the critic's side. lambda is a ratio of gradients at the decoder's
last layer, or a number. LeCAM holds the critic back by running means of its logits, which are state without a gradient: they leave as ``statistics``
and are written in ``update``, so that the split of a batch changes nothing. lambda is not so: each micro-batch has its own ratio, that of all processes'
shares of it together.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp import objectives, processes
from latentcomp.model import LatentVariableModel
from latentcomp.phases import games


@runtime_checkable
class HasLastWeight(Protocol):
    """A decoder that says which of its weights make the image."""

    last_weight: Tensor


@runtime_checkable
class Checking(Protocol):
    """A network that says without a pass through it which images it refuses."""

    def check(self, x: Tensor) -> None:
        """Raises for images that it cannot judge."""


class FixedWeight:
    """The same lambda at every step.

    Args:
        factor: lambda.
    """

    def __init__(self, factor: float = 0.1) -> None:
        self.factor = factor

    def check(self, model: LatentVariableModel) -> None:
        """Refuses a model that it cannot weigh by; a number weighs by none."""

    def __call__(self, reconstruction: Tensor, adversarial: Tensor, model: LatentVariableModel, rows: int) -> Tensor:
        """lambda, whatever the gradients."""
        return adversarial.new_full((), self.factor)


class AdaptiveWeight(FixedWeight):
    """``objectives.adaptive_weight`` times a factor (Esser et al., 2021, eq. 7). By default as in the published code.

    The reconstruction's gradient is that of the whole loss of the wrapped learner: at the decoder's last layer nothing but log p(x|z) has one.

    Args:
        factor: multiplies the ratio; 0.8 in the published configurations, 1 in the paper.
        delta: added to the denominator; 1e-4 in the code, 1e-6 in the paper.
        ceiling: the largest ratio; 1e4 in the code, none (``inf``) in the paper.
    """

    def __init__(self, factor: float = 0.8, delta: float = 1e-4, ceiling: float = 1e4) -> None:
        super().__init__(factor)
        self.delta, self.ceiling = delta, ceiling

    def __call__(self, reconstruction: Tensor, adversarial: Tensor, model: LatentVariableModel, rows: int) -> Tensor:
        """lambda of this micro-batch, all processes' shares of it together, without a gradient; both losses keep their graph.

        ``rows`` says how many images of this process the losses are means over.

        Raises:
            TypeError: the decoder does not say what its last weights are.
        """
        last = self._last(model)
        # each loss weighs its rows before it is differentiated: what a shared batch norm sends back from one process to another comes weighed, too
        gradients = [torch.autograd.grad(loss * rows, last, retain_graph=True)[0] / rows for loss in (reconstruction, adversarial)]
        a, b = processes.averaged(gradients, rows)
        return self.factor * objectives.adaptive_weight(a, b, self.delta, self.ceiling)

    def check(self, model: LatentVariableModel) -> None:
        """Refuses a decoder that does not say what its last weights are.

        Raises:
            TypeError: so.
        """
        self._last(model)

    @staticmethod
    def _last(model: LatentVariableModel) -> Tensor:
        if not isinstance(model.decoder, HasLastWeight):
            raise TypeError(
                f"the adaptive weight compares gradients at the decoder's last layer, and {type(model.decoder).__name__} does not say which that is: give it a "
                "property last_weight, or pass FixedWeight(...) to the critic"
            )
        return model.decoder.last_weight


class Ramp(NamedTuple):
    """From when on the critic learns and counts, in steps.

    Attributes:
        start: the first step at which the generator hears the critic.
        length: steps of a linear rise from there to the full weight; 0 for a jump, as published.
        warmup: steps before ``start`` from which on the critic itself learns, so that it has something to say; none as published.
    """

    start: int = 0
    length: int = 0
    warmup: int = 0

    def __call__(self, step: int) -> float:
        """The share of lambda that counts at this step."""
        if step < self.start:
            return 0.0
        return min(1.0, (step - self.start + 1) / max(self.length, 1))

    def learns(self, step: int) -> bool:
        """Whether the critic learns at this step."""
        return step >= self.start - self.warmup


class LeCAM(nn.Module):
    """The regulariser of Tseng et al. (2021), for critics that win too easily.

    Args:
        weight: of ``objectives.lecam_loss`` in the critic's loss.
        decay: of the running means of the logits, which begin at 0.
    """

    real: Tensor
    made: Tensor

    def __init__(self, weight: float = 0.001, decay: float = 0.999) -> None:
        super().__init__()
        self.weight, self.decay = weight, decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("made", torch.zeros(()))

    def forward(self, real: Float[Tensor, "B 1 h w"], made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
        """The weighted loss."""
        return self.weight * objectives.lecam_loss(real, made, self.real, self.made)

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor]) -> None:
        """The means move towards those of the whole step."""
        if "critic_real" in statistics:
            self.real.lerp_(statistics["critic_real"].mean().to(self.real.dtype), 1 - self.decay)
            self.made.lerp_(statistics["critic_made"].mean().to(self.made.dtype), 1 - self.decay)


class Turn(NamedTuple):
    """What the generator hears: a loss to add to its own, the weight lambda in it, and scalars to log."""

    value: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]


class Critic(nn.Module):
    """A critic and its rules.

    Args:
        network: images ``(B, C, H, W)`` to logits ``(B, 1, h, w)``, such as ``nn.PatchCritic``.
        game: "hinge" (by default), "vanilla", "non_saturating", "min_max", or a :class:`~latentcomp.phases.games.Game`.
        weight: lambda, ``AdaptiveWeight()`` by default, or ``FixedWeight``.
        ramp: from when on it learns and counts; by default from the first step.
        lecam: its regulariser, or None.
        renewed: whether it judges reconstructions that are made once more after the generator's update, as in the published code, instead of those before
            it; that costs another pass through encoder and decoder.

    Raises:
        ValueError: there is no game of that name.
    """

    def __init__(
        self,
        network: nn.Module,
        game: str | games.Game = "hinge",
        weight: FixedWeight | None = None,
        ramp: Ramp | None = None,
        lecam: LeCAM | None = None,
        renewed: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.game = network, games.game(game)
        self.weight, self.ramp, self.lecam, self.renewed = weight or AdaptiveWeight(), ramp or Ramp(), lecam, renewed

    def check(self, model: LatentVariableModel, x: Tensor) -> None:
        """Refuses, of the first batch of a run, what it would otherwise refuse only once it begins to count.

        Raises:
            TypeError: the weight is adaptive, and the decoder does not say what its last weights are.
            ValueError: the images are too small for the network, or have another number of channels.
        """
        self.weight.check(model)
        if isinstance(self.network, Checking):
            self.network.check(x)

    def _logits(self, x: Tensor) -> Tensor:
        """In float32 or better: under autocast the network gives sixteen bits, too few for a mean of them or a running mean."""
        logits = self.network(x)
        return logits if logits.dtype.itemsize > 2 else logits.float()

    def against(self, model: LatentVariableModel, reconstruction: Tensor, x_hat: Tensor, step: int) -> Turn:
        """The generator's side, with a gradient in x_hat; its loss names whom it moves, so that nothing of it stays in the critic."""
        adversarial, ramp = self.game.generator(self._logits(x_hat)), self.ramp(step)
        weight = self.weight(reconstruction, adversarial, model, len(x_hat))
        metrics = {"adversarial": adversarial.detach(), "lambda": weight, "ramp": torch.full_like(weight, ramp)}
        return Turn(ramp * weight * adversarial, weight, metrics)

    def judgement(self, x: Tensor, x_hat: Tensor, weight: Tensor | None) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The critic's loss on images and reconstructions, scalars to log, and the statistics of its regulariser."""
        real, made = self._logits(x), self._logits(x_hat.detach())
        loss = self.game.critic(real, made)
        if self.game.zero_sum and weight is not None:
            loss = weight * loss
        rows = {"critic_real": real.detach().flatten(1).mean(1), "critic_made": made.detach().flatten(1).mean(1)}
        metrics = {"critic": loss.detach()} | {name: row.mean() for name, row in rows.items()}
        if self.lecam is None:
            return loss, metrics, {}
        held = self.lecam(real, made)
        return loss + held, metrics | {"lecam": held.detach()}, rows

    def update(self, statistics: dict[str, Tensor]) -> None:
        """State without a gradient, once a step."""
        if self.lecam is not None:
            self.lecam.update(statistics)
