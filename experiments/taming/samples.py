"""What is drawn of a prior to be judged: how codes are cut off, mixed over several cuts, and rejected by a classifier.

A sampler gives pictures, as many as asked for, in batches. Sample number i is a function of (seed, i).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from experiments.taming.coded import Coded
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive
from latentcomp.sampling.rejection import Draw, accepted, class_score

SPREAD = 1_000_003  # between the seeds of classes, above any number of seeds of a table


class Drawn(NamedTuple):
    """What a sampler draws from.

    Attributes:
        model: with the trained prior.
        data: codes of the data set; the conditions of samples are those of its test pictures.
        classes: of a class condition; 0 for none.
        rejector: the classifier that rejects; None where all samples are kept.
        seed: of all draws.
        size: samples at a time.
    """

    model: LatentVariableModel
    data: Coded
    classes: int
    rejector: nn.Module | None
    seed: int
    size: int = 200

    @property
    def device(self) -> torch.device:
        """Of the prior."""
        return next(self.model.prior.parameters()).device

    def decode(self, z: Tensor) -> Tensor:
        """Codes to pictures."""
        return self.model.decode(self.model.codebook(z)).mean


class Sampler(Protocol):
    """Anything that gives pictures to be judged."""

    def __call__(self, drawn: Drawn, number: int) -> Iterator[Tensor]:
        """Batches of them, ``number`` in all."""
        ...


class Cut(NamedTuple):
    """Samples whose conditionals are cut off.

    Attributes:
        top_k: how many codes each conditional keeps; several numbers take turns ("mixed k"); None for all, and so are more than there are.
        top_p: the probability that the kept codes reach.
        temperature: divides the logits.
        acceptance: the share of a class's samples that a classifier keeps, those it is surest of.
    """

    top_k: int | Sequence[int] | None = 100
    top_p: float = 1.0
    temperature: float = 1.0
    acceptance: float = 1.0

    @property
    def cuts(self) -> list[int | None]:
        """The numbers of codes that take turns."""
        return [self.top_k] if self.top_k is None or isinstance(self.top_k, int) else list(self.top_k)

    def distribution(self, drawn: Drawn, r: Tensor | None, k: int | None) -> TruncatedCodes:
        """p(z|r), cut off."""
        prior = cast(Autoregressive, drawn.model.prior)
        return TruncatedCodes(prior.network, r, self.temperature, None if k is None or k >= max(prior.cardinalities) else max(1, k), self.top_p)

    def __call__(self, drawn: Drawn, number: int) -> Iterator[Tensor]:
        """Batches of pictures; with rejection class by class, else the cuts one after the other.

        Raises:
            ValueError: samples without a class, or without a classifier, are to be rejected.
        """
        if self.acceptance < 1:
            yield from self._accepted(drawn, number)
            return
        held = drawn.data.conditions("test") if not drawn.classes else None
        for turn, (start, end) in enumerate(_shares(number, len(self.cuts))):
            for first in range(start, end, drawn.size):
                index = torch.arange(first, min(first + drawn.size, end), device=drawn.device)
                r = (index % drawn.classes).unsqueeze(1) if drawn.classes else None if held is None else held[index % len(held)]
                p = self.distribution(drawn, r, self.cuts[turn])
                yield drawn.decode(p.sample((len(index),) if r is None else (), Noise(drawn.seed, 0, index)))

    def _accepted(self, drawn: Drawn, number: int) -> Iterator[Tensor]:
        if not drawn.classes:
            raise ValueError(f"acceptance={self.acceptance}: a classifier rejects samples of a class, and this row has none: set sampling.acceptance=1")
        if drawn.rejector is None:
            raise ValueError(f"acceptance={self.acceptance}: samples are rejected by a classifier, and none was given: pass Drawn a rejector")
        classify = drawn.rejector.to(drawn.device)
        for label, (start, end) in enumerate(_shares(number, drawn.classes)):
            score = class_score(drawn.decode, classify, label)
            for turn, (first, last) in enumerate(_shares(end - start, len(self.cuts))):
                if last > first:
                    seed = drawn.seed + SPREAD * (label * len(self.cuts) + turn + 1)
                    draw = self._of_class(drawn, label, self.cuts[turn])
                    yield drawn.decode(accepted(draw, score, last - first, self.acceptance, seed, drawn.size, drawn.device))

    def _of_class(self, drawn: Drawn, label: int, k: int | None) -> Draw:
        def draw(noise: Noise) -> Tensor:
            rows = len(noise.uniform((), ()))
            return self.distribution(drawn, torch.full((rows, 1), label, device=drawn.device), k).sample((), noise)

        return draw


class HeldOut(NamedTuple):
    """No samples at all: held-out pictures, as the best that a model could give."""

    part: str = "validation"

    def __call__(self, drawn: Drawn, number: int) -> Iterator[Tensor]:
        """Batches of them, at most so many."""
        left = number
        for batch in drawn.data.data.held_out(self.part):
            if left > 0:
                yield batch.x[:left].to(drawn.device)
                left -= batch.size


def _shares(number: int, parts: int) -> list[tuple[int, int]]:
    """Nearly equal ranges that make up 0..number."""
    ends = [math.ceil(number * part / parts) for part in range(parts + 1)]
    return list(itertools.pairwise(ends))
