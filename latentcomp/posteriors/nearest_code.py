"""The posterior of vector quantisation: certain of the code that lies nearest to the encoder's output (van den Oord et al., 2017, eq. 1)."""

from torch import Tensor, nn

from latentcomp.codes.point import PointCodes
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior, sites_of


class NearestCode(Posterior):
    """q(z|x) = 1 at z_i = argmin_k ||h_i(x) - e_k||; the codebook, and with it the meaning of "nearest", is the model's.

    Args:
        encoder: maps images to h ``(B, N, D)``; for residual codes, of which there are N Q, one h for each Q.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> PointCodes:
        """The point mass, which also carries h, projected to where codes live, for the learner."""
        codebook = model.codebook
        h = sites_of(self.encoder(x), model, codebook.width, "vectors h in the codebook's space", codebook.depth)
        return PointCodes(codebook.nearest(h, model.cardinalities), model.cardinalities, codebook.project(h))
