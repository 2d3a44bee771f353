"""Independent sites: the mean-field amortised posterior q(z|x) = prod_i q(z_i|x)."""

from torch import Tensor, nn

from latentcomp.codes.factorised import FactorisedCodes
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior, sites_of


class Factorised(Posterior):
    """Logits of all codes at each site, read off features of x.

    Args:
        trunk: maps images to features of any shape; they are also the context of a log Z(x) head.
        head: maps the features to logits ``(B, N, K)``.
    """

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> FactorisedCodes:
        """Independent categorical sites."""
        features = self.trunk(x)
        logits = sites_of(self.head(features), model, max(model.cardinalities), "logits of the codes")
        return FactorisedCodes(logits, model.cardinalities, features.flatten(1))
