"""A codebook of free vectors that descend a loss, with restart of dead codes.

A code that is used much less than the others is dead and moves onto an encoder output of the current batch (Dhariwal et al., 2020, "Jukebox"). Use is counted
in shares of the even use, M / K assignments of a step's M to each of K codes, as a running mean:

    u_k <- decay u_k + (1 - decay) K n_k / M,        k is dead where u_k < restart,

so that u is one on average, and a threshold means the same whatever K and the batch are. What a step assigned leaves the learner as ``statistics``, tensors of
rows. The loop puts the rows of all micro-batches below each other and hands them to ``update`` once a step, so that the split of a batch changes nothing.
"""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lookup import lookup
from latentcomp.codebook.space import Euclidean, Space
from latentcomp.codebook.start import FromOutputs, Gaussian, Start, occupancy
from latentcomp.noise import Noise


class Codebook(Geometry):
    """K vectors of dimension D, learned by gradient.

    Args:
        codes: K.
        width: D.
        restart: a code whose use, in running mean (decay 0.99), falls below this share of the even use is dead and moves onto an encoder output: 0.1 for
            codes that are used ten times less than if all were used alike; 0 never restarts.
        start: where the vectors begin, ``Gaussian()`` by default. ``KMeans`` waits for the first step of a learner that assigns codes.
        space: where they are compared, ``Euclidean()`` by default, or on the ``Sphere``.

    Raises:
        ValueError: no code, no dimension, or a share outside [0, 1).
    """

    decay = 0.99
    weight: Tensor
    usage: Tensor
    waiting: Tensor

    def __init__(self, codes: int, width: int, restart: float = 0.0, start: Start | None = None, space: Space | None = None) -> None:
        super().__init__()
        if codes < 1 or width < 1 or not 0 <= restart < 1:
            raise ValueError(
                "a codebook needs K >= 1 codes of D >= 1 dimensions, and restart in [0, 1) is a share of the even use; "
                f"got K={codes}, D={width}, restart={restart}"
            )
        self.restart, self.start, self.space = restart, start or Gaussian(), space or Euclidean()
        self._own(self.space(self.start.draw(codes, width)))
        self.register_buffer("usage", torch.full((codes,), 2.0 * restart))
        self._waits: bool | None = False
        if isinstance(self.start, FromOutputs):
            self.register_buffer("waiting", torch.tensor(True))
            self._waits = True

    def _own(self, weight: Float[Tensor, "K D"]) -> None:
        self.weight = nn.Parameter(weight)

    @property
    def vectors(self) -> Float[Tensor, "K D"]:
        """The vectors, in their space."""
        return self.space(self.weight)

    @property
    def codes(self) -> int:
        """K."""
        return len(self.weight)

    @property
    def width(self) -> int:
        """D."""
        return self.weight.shape[-1]

    def forward(self, z: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """e = E[z].

        Raises:
            TypeError: the codes are no whole numbers.
            ValueError: a code lies outside 0..K-1 (on an accelerator, where looking would stall it, the device's own assertion says so instead).
        """
        return self.space(lookup(z, self.weight))

    def project(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """In the codebook's space."""
        return self.space(h)

    def statistics(self, h: Float[Tensor, "B N D"], z: Int[Tensor, "B N"], index: Int[Tensor, " B"]) -> dict[str, Tensor]:
        """The count ``(1, K)`` of each code, and the outputs as candidates of a start or restart, where either may come."""
        if self.restart == 0 and not self.waits:
            return {}
        return {"h": h.detach(), "index": index, "counts": occupancy(z.flatten(), self.codes, self.weight.dtype).unsqueeze(0)}

    @torch.no_grad()
    def update(self, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Learns what needs no gradient, from the rows of a whole step: the start, or who is dead."""
        if "counts" not in statistics:
            return
        if self.waits:
            self.begin(statistics["h"], statistics["index"], seed, step)
        elif self.restart > 0:
            counts = statistics["counts"].sum(0).to(self.usage.dtype)
            self.usage.lerp_(counts * (self.codes / counts.sum()), 1 - self.decay)
            self._restart(self.usage < self.restart, statistics, seed, step)

    @property
    def waits(self) -> bool:
        """Whether the first encoder outputs are yet to come, where the start wants them."""
        if self._waits is None:  # a state was loaded: look once, not at each step, since looking stalls an accelerator
            self._waits = bool(self.waiting)
        return self._waits

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._waits = None if isinstance(self.start, FromOutputs) else False

    @torch.no_grad()
    def begin(self, h: Float[Tensor, "B N D"], index: Int[Tensor, " B"], seed: int, step: int) -> None:
        """The vectors move to where the first outputs lie.

        Raises:
            TypeError: they began without data.
            ValueError: fewer outputs than codes, and no restart that would ever use the rest.
        """
        if not isinstance(self.start, FromOutputs):
            raise TypeError(
                f"a codebook with the start {type(self.start).__name__} has begun without outputs: give it one that waits for them, such as KMeans()"
            )
        points = _shuffled(h, index, seed, step).to(self.weight.dtype)
        if len(points) < self.codes and self.restart == 0:
            raise ValueError(
                f"k-means needs at least K={self.codes} encoder outputs; the first step has {len(points)}. "
                "Take larger batches, or restart dead codes (restart > 0)"
            )
        self._settle(*self.start.centres(points, self.codes, self.space))
        self.waiting.fill_(False)
        self._waits = False

    def _settle(self, means: Float[Tensor, "K D"], counts: Float[Tensor, " K"]) -> None:
        self.weight.data.copy_(means)

    def _restart(self, dead: Tensor, statistics: dict[str, Tensor], seed: int, step: int) -> None:
        """Dead codes move onto encoder outputs, chosen by a lottery keyed by (seed, step, example): no batch split or order of rows changes it.

        No output is given to two codes. Where there are more codes than outputs, the codes take turns from step to step.
        """
        winners = _shuffled(statistics["h"], statistics["index"], seed, step).to(self.weight.dtype)
        code = torch.arange(self.codes, device=winners.device)
        turns = -(-self.codes // len(winners))
        moves = (dead & (code // len(winners) == step % turns)).unsqueeze(-1)
        self.weight.data.copy_(torch.where(moves, winners[code % len(winners)], self.weight))
        self.usage.masked_fill_(moves.squeeze(-1), 2 * self.restart)
        self._moved(moves)

    def _moved(self, moves: Tensor) -> None:
        """What else a code that moves takes with it."""


def _shuffled(h: Float[Tensor, "B N D"], index: Int[Tensor, " B"], seed: int, step: int) -> Float[Tensor, "M D"]:
    """All outputs, in the order of their tickets."""
    ticket = Noise(seed, step, index).uniform((), (h.shape[1],), torch.float64).flatten()
    return rearrange(h, "b n d -> (b n) d")[ticket.argsort()]
