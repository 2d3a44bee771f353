"""Do draws follow a distribution? Chi-square tests at a stated error rate: with its fixed seed a right sampler fails with probability LEVEL."""

import math

import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor

LEVEL = 1e-6


def positions(z: Tensor, cardinalities: tuple[int, ...]) -> Tensor:
    """The row of each code ``(..., N)`` in the table of all codes, the first site varying slowest."""
    weights = torch.tensor([math.prod(cardinalities[site + 1 :]) for site in range(len(cardinalities))])
    return (z * weights).sum(-1)


def assert_frequencies(drawn: Tensor, probabilities: Tensor) -> None:
    """The cells ``drawn`` have the given probabilities ``(M,)``; cells expected less than five times are pooled, impossible ones never drawn."""
    counts = np.bincount(drawn.flatten().numpy(), minlength=len(probabilities)).astype(float)
    expected = probabilities.detach().double().numpy()
    expected = expected / expected.sum() * counts.sum()
    assert counts[expected == 0].sum() == 0, "a code of probability zero was drawn"
    rare = expected < 5
    counts, expected = (np.append(cells[~rare], cells[rare].sum()) for cells in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) == 1 or chisquare(counts, expected).pvalue > LEVEL
