"""The posterior of GFlowNet-EM: q(z|x) = prod_i q(z_i | z_<i, x), which can represent any dependence between the sites.

In the words of GFlowNets this is the forward policy P_F over partial sequences. The order of the sites is fixed, so each state has one parent and the
backward policy is P_B = 1.
"""

from torch import Tensor, nn

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.model import LatentVariableModel
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.posteriors.posterior import Posterior


class Autoregressive(Posterior):
    """A trunk that reads the image once, and a policy over sites that reads its features and the prefix.

    Args:
        trunk: maps images to features; flattened to ``(B, H)`` they are the policy's context.
        policy: the sequence network, such as ``PrefixMLP`` or ``CausalTransformer``.
    """

    def __init__(self, trunk: nn.Module, policy: SequenceNetwork) -> None:
        super().__init__()
        self.trunk, self.policy = trunk, policy

    def forward(self, model: LatentVariableModel, x: Tensor, c: Tensor | None = None) -> AutoregressiveCodes:
        """q(z|x), with x encoded."""
        if self.policy.cardinalities != model.cardinalities:
            raise ValueError(f"the policy was built for sites of cardinalities {self.policy.cardinalities}, the model has {model.cardinalities}")
        return AutoregressiveCodes(self.policy, self.trunk(x).flatten(1))
