"""Games between a generator of images and a critic of them: what each side descends, as functions of the critic's logits.

D(x) are logits of data, D(x_hat) those of reconstructions. The published VQGAN code knows ``Hinge`` and ``Vanilla``, whose generator's side is the same
linear one; the paper's equation 5 is ``MinMax``.
"""

from abc import ABC, abstractmethod

from torch import Tensor

from latentcomp import objectives


class Game(ABC):
    """Two losses.

    Attributes:
        zero_sum: whether the critic climbs exactly what the generator descends, weight and all.
    """

    zero_sum = False

    @abstractmethod
    def generator(self, made: Tensor) -> Tensor:
        """The generator's loss, with a gradient in what it made."""

    @abstractmethod
    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        """The critic's loss."""


class Hinge(Game):
    """``objectives.hinge_loss`` against ``objectives.adversarial_loss`` (Lim and Ye, 2017): the published default."""

    def generator(self, made: Tensor) -> Tensor:
        """-mean D(x_hat)."""
        return objectives.adversarial_loss(made)

    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        """The hinge."""
        return objectives.hinge_loss(real, made)


class Vanilla(Hinge):
    """``objectives.logistic_loss`` against the same linear loss: what the published code calls "vanilla"."""

    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        """The cross-entropy of a classifier, halved."""
        return objectives.logistic_loss(real, made)


class NonSaturating(Vanilla):
    """``objectives.logistic_loss`` against ``objectives.non_saturating_loss`` (Goodfellow et al., 2014)."""

    def generator(self, made: Tensor) -> Tensor:
        """-mean log sigmoid D(x_hat)."""
        return objectives.non_saturating_loss(made)


class MinMax(Game):
    """``objectives.min_max_value``, which the critic climbs and the generator descends (Esser et al., 2021, eq. 5 and 6)."""

    zero_sum = True

    def generator(self, made: Tensor) -> Tensor:
        """mean log(1 - sigmoid D(x_hat)), the part of the value that the generator moves."""
        return objectives.saturating_loss(made)

    def critic(self, real: Tensor, made: Tensor) -> Tensor:
        """Minus the value."""
        return -objectives.min_max_value(real, made)


GAMES: dict[str, type[Game]] = {"hinge": Hinge, "vanilla": Vanilla, "non_saturating": NonSaturating, "min_max": MinMax}
"""By the names that configurations use."""


def game(kind: str | Game) -> Game:
    """The game of a name, or the game itself.

    Raises:
        ValueError: there is none of that name; lists those that there are.
    """
    if isinstance(kind, Game):
        return kind
    if kind not in GAMES:
        raise ValueError(f"there is no critic loss {kind!r}; known: {', '.join(GAMES)}. A Game of your own may be passed instead of a name")
    return GAMES[kind]()
