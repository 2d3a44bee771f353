"""The chest clinic ("Asia") of Lauritzen and Spiegelhalter (1988): what an X-ray and a short breath say about causes that explain each other away.

Tuberculosis and cancer both darken the X-ray, either of them and bronchitis shorten the breath; once one cause is likely the others are less so, although
they are independent before anything is seen. The table of probabilities is that of the paper.
"""

import pyro
import torch
from pyro.distributions import Bernoulli
from torch import Tensor

TUBERCULOSIS = torch.tensor([0.01, 0.05])  # without and after a visit to Asia
CANCER = torch.tensor([0.01, 0.10])  # of others and of smokers
BRONCHITIS = torch.tensor([0.30, 0.60])  # likewise
XRAY = torch.tensor([0.05, 0.98])  # without and with tuberculosis or cancer
DYSPNOEA = torch.tensor([[0.10, 0.80], [0.70, 0.90]])  # [tuberculosis or cancer, bronchitis]


def program(x: Tensor) -> None:
    """Visits, habits and diseases ``(B,)`` behind findings ``(B, 2)``: a dark X-ray, a short breath."""
    with pyro.plate("data", len(x)):
        asia = _cause("asia", torch.tensor(0.01))
        smoker = _cause("smoker", torch.tensor(0.5))
        tuberculosis = _cause("tuberculosis", TUBERCULOSIS[asia])
        cancer = _cause("cancer", CANCER[smoker])
        bronchitis = _cause("bronchitis", BRONCHITIS[smoker])
        either = tuberculosis | cancer
        pyro.sample("xray", Bernoulli(XRAY[either]), obs=x[:, 0])
        pyro.sample("dyspnoea", Bernoulli(DYSPNOEA[either, bronchitis]), obs=x[:, 1])


def _cause(name: str, probability: Tensor) -> Tensor:
    return pyro.sample(name, Bernoulli(probability), infer={"enumerate": "parallel"}).long()


def data(n: int, seed: int) -> Tensor:
    """Findings, each of the four pairs as often as the others: the clinic sees the ill."""
    pairs = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return pairs[torch.randint(4, (n,), generator=torch.Generator().manual_seed(seed))]
