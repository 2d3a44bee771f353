"""Replay: the best codes found so far for each datum, proposed again.

The memory keeps, for each datum, its M distinct codes of highest log p(x, z). They are the terms that matter most in p(x) = sum_z p(x, z), so with each
new one the sum over the memory is a closer lower bound of p(x) (Hewitt et al., 2020; Guiraud et al., 2020), while a memory of recent codes would hold what
q draws anyway. A code's rank is its latest known log p(x, z). It ages as theta moves, and is set right whenever the code is proposed: the learner scores
all codes under the current model, so an E-step never learns from an old score.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.support import repeated
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.phases.behaviour import Behaviour, OnPolicy


class Memory(nn.Module):
    """At most M distinct codes for each datum of a set, the best first, as 16-bit integers.

    Args:
        size: n, the number of data in the set.
        sites: N.
        capacity: M.
    """

    codes: Tensor
    scores: Tensor

    def __init__(self, size: int, sites: int, capacity: int = 8) -> None:
        super().__init__()
        if min(size, sites, capacity) < 1:
            raise ValueError(f"a memory needs at least one datum, site and place, got size={size}, sites={sites}, capacity={capacity}")
        self.register_buffer("codes", torch.zeros(size, capacity, sites, dtype=torch.int16))
        self.register_buffer("scores", torch.full((size, capacity), -torch.inf))  # log p(x, z) when last seen; -inf marks an empty place

    @property
    def capacity(self) -> int:
        """M."""
        return self.scores.shape[1]

    def recall(self, positions: Int[Tensor, " B"]) -> tuple[Int[Tensor, "B M N"], Float[Tensor, "B M"]]:
        """The codes of these data and their scores, -inf where a place is empty.

        Raises:
            ValueError: a position outside the memory (where positions lie on a device, an assertion of that device).
        """
        check_positions(positions, len(self.scores), type(self).__name__)
        return self.codes[positions].long(), self.scores[positions]

    def update(self, positions: Int[Tensor, " B"], z: Int[Tensor, "B S N"], scores: Float[Tensor, "B S"]) -> None:
        """The M best distinct codes of these and of those that are there; a code that is there already takes its new score."""
        old, old_scores = self.recall(positions)
        z, scores = torch.cat([z, old], 1), torch.cat([scores.to(old_scores.dtype), old_scores], 1)
        best, place = scores.masked_fill(repeated(z), -torch.inf).topk(self.capacity, 1)
        self.scores[positions] = best
        self.codes[positions] = z.gather(1, place.unsqueeze(-1).expand(-1, -1, z.shape[-1])).to(self.codes.dtype)


class Replay(Behaviour):
    """Different codes from the memory of each datum, chosen uniformly; samples of q where the memory does not hold enough. It has no density.

    It remembers the best of all codes that an E-step has seen, also those of behaviours that it is mixed with (``Mixed``). Alone it would stop looking as
    soon as the memory holds ``samples`` codes.

    Args:
        memory: for the whole data set; several behaviours may share one.
        samples: how many codes for each datum, at most the memory's M.
    """

    on_policy = False

    def __init__(self, memory: Memory, samples: int = 2) -> None:
        super().__init__(samples)
        if samples > memory.capacity:
            raise ValueError(f"the memory keeps {memory.capacity} codes of each datum, fewer than samples={samples}: give it a larger capacity")
        self.memory, self.fresh = memory, OnPolicy(samples)

    def forward(self, model: LatentVariableModel, q: CodeDistribution, batch: Batch, noise: Noise) -> tuple[Int[Tensor, "S B N"], None]:
        """Remembered codes."""
        check_codes(model, self.memory.codes, type(self.memory).__name__)
        codes, scores = self.memory.recall(batch.positions)
        fresh, _ = self.fresh(model, q, batch, noise)
        order = noise.gumbel((), scores.shape[1:]).masked_fill(scores == -torch.inf, -torch.inf).topk(self.samples, -1)
        chosen = codes.gather(1, order.indices.unsqueeze(-1).expand(-1, -1, codes.shape[-1])).movedim(1, 0)
        return torch.where(order.values.T.isfinite().unsqueeze(-1), chosen, fresh), None

    def statistics(self, batch: Batch, z: Int[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> dict[str, Tensor]:
        """All codes, and how good they are."""
        return {"positions": batch.positions, "codes": z.movedim(0, 1), "scores": log_joint.detach().T}

    def update(self, statistics: Mapping[str, Tensor]) -> None:
        """The memory takes what is better than what it has."""
        if "codes" in statistics:
            self.memory.update(statistics["positions"], statistics["codes"], statistics["scores"])


def check_positions(positions: Int[Tensor, " B"], size: int, what: str) -> None:
    """Refuses data that a memory of ``size`` has no place for.

    Raises:
        ValueError: names the range; where positions lie on a device, an assertion of that device, since reading the answer would wait for it at every step.
    """
    message = f"positions in the data set must lie in 0..{size - 1}, for {what} was built with size={size}: build it for the whole training set"
    inside = ((positions >= 0) & (positions < size)).all()
    if not positions.is_cpu:
        torch._assert_async(inside, message)
    elif not inside:
        raise ValueError(f"{message}; got {int(positions.min())}..{int(positions.max())}")


def check_codes(model: LatentVariableModel, codes: Tensor, what: str) -> None:
    """Refuses a model whose codes do not fit in a memory ``(n, M, N)``.

    Raises:
        ValueError: another number of sites, or more codes than its integers can tell apart.
    """
    sites, largest = codes.shape[-1], torch.iinfo(codes.dtype).max + 1
    if len(model.cardinalities) != sites:
        raise ValueError(f"{what} was built for sites={sites}, the model has {len(model.cardinalities)}")
    if max(model.cardinalities) > largest:
        raise ValueError(f"{what} keeps codes as 16-bit integers, for K up to {largest}; the model has K={max(model.cardinalities)}")
