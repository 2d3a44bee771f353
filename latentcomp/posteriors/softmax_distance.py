"""Soft vector quantisation: codes are the more probable the nearer they lie (Takida et al., 2022, "SQ-VAE"; Sonderby et al., 2017)."""

import math

import torch
from torch import Tensor, nn

from latentcomp.codebook.lookup import squared_distances
from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior, sites_of


class SoftmaxDistance(Posterior):
    """q(z_i = k | x) proportional to exp(-||h_i(x) - e_k||^2 / (2 s^2)); the codebook is the model's, the scale s is learned.

    Args:
        encoder: maps images to h ``(B, N, D)``.
        scale: the initial s, in the units of the codebook; as it goes to zero this becomes ``NearestCode``.
    """

    def __init__(self, encoder: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> FactorisedCodes:
        """Independent sites with distances for logits."""
        vectors = model.codebook.vectors
        h = model.codebook.project(sites_of(self.encoder(x), model, vectors.shape[-1], "vectors h in the codebook's space"))
        logits = -squared_distances(h, vectors) / (2 * (2 * self.log_scale).exp())
        return FactorisedCodes(logits, model.cardinalities, h.flatten(1))
