"""Rejection by a classifier (Razavi et al., 2019; Esser et al., 2021, table 4): of many samples of a class, those that a classifier is surest of.

With an acceptance rate a, n samples are the n best of n / a. The rate trades variety for fidelity; at 1 nothing is rejected.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.noise import Noise

Draw = Callable[[Noise], Tensor]
"""Codes ``(R, N)``, a row for each stream of the noise."""
Score = Callable[[Tensor], Tensor]
"""Codes ``(R, N)`` to numbers ``(R,)``: the larger, the better."""


def class_score(decode: Callable[[Tensor], Tensor], classifier: Callable[[Tensor], Tensor], label: int) -> Score:
    """log p(label | image) of codes.

    Args:
        decode: codes to images.
        classifier: images to logits ``(R, classes)``.
        label: the class that was asked for.
    """

    def score(z: Tensor) -> Float[Tensor, " R"]:
        return classifier(decode(z)).log_softmax(-1)[:, label]

    return score


@torch.no_grad()
def accepted(draw: Draw, score: Score, n: int, rate: float, seed: int = 0, chunk: int = 64, device: torch.device | str | None = None) -> Int[Tensor, "n N"]:
    """The n best of ceil(n / rate) samples, the best first; only n and a chunk are ever held.

    Args:
        draw: such as ``lambda noise: prior(c).sample((), noise)``; asked for at most ``chunk`` rows, fewer at the end.
        score: such as :func:`class_score`.
        n: how many to keep.
        rate: the share that is kept, in (0, 1].
        seed: of the samples; sample number i has the stream (seed, i), whatever the chunks.
        chunk: how many to draw at once.
        device: of the noise, where the prior is; None for torch's default.

    Raises:
        ValueError: the rate is no share, or n or the chunk is below 1.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"the acceptance rate is the share of samples that are kept, in (0, 1]; got {rate}")
    if n < 1 or chunk < 1:
        raise ValueError(f"at least one sample is kept, and drawn at once; got n={n}, chunk={chunk}")
    total = math.ceil(n / rate)
    kept: list[Tensor] = []
    scores: list[Tensor] = []
    for start in range(0, total, chunk):
        z = draw(Noise(seed, 0, torch.arange(start, min(start + chunk, total), device=device)))
        pool, values = torch.cat([*kept, z]), torch.cat([*scores, score(z)])
        best = values.argsort(descending=True, stable=True)[:n]
        kept, scores = [pool[best]], [values[best]]
    return kept[0]
