"""The exact posterior p(z|x) = p(x, z) / sum_z' p(x, z'), by enumeration; and the point mass on the best code of any posterior."""

import torch
from torch import Tensor

from latentcomp.codes.point import PointCodes
from latentcomp.codes.table import TableCodes
from latentcomp.enumeration import log_joint_table
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior


class Exact(Posterior):
    """Bayes' rule on all K^N codes. It has no parameters: it is right for whatever the model is at the moment. No gradient passes."""

    @torch.no_grad()
    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> TableCodes:
        """p(z|x).

        Raises:
            TooManyCodes: K^N is too large; says the count, the memory and the alternative.
        """
        return TableCodes(log_joint_table(model, x, c), model.cardinalities)


class Mode(Posterior):
    """All mass on the mode of another posterior: with ``Exact`` the maximum a posteriori code, which hard EM uses.

    Args:
        posterior: the posterior whose mode is taken.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> PointCodes:
        """The point mass."""
        return PointCodes(self.posterior(model, x, c).mode, model.cardinalities)
