"""How codes are drawn of a prior to be shown: at a temperature, without their tails, moved along what their condition adds.

    l = l_none + s (l_c - l_none),    p(z_i | z_<i, c) = softmax(l / T), cut to top-k and top-p

All of it acts on the conditionals of the sequence that the prior writes. A prior in an order of its own writes that sequence, and its codes are put in place
afterwards.
"""

from typing import NamedTuple

from jaxtyping import Num
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.ordered import OrderedCodes
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.nn.guided import Guided
from latentcomp.priors import Autoregressive, InOrder, Prior, context_of


class Drawing(NamedTuple):
    """What is done to the conditionals of a prior; by default nothing.

    Attributes:
        temperature: T, divides the logits.
        top_k: how many codes each conditional keeps; None for all.
        top_p: the probability that the kept codes reach; None for all.
        guidance: s; 1 is the plain condition, more makes codes more typical of it.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float = 1.0

    def __call__(self, prior: Prior, c: Tensor | None = None) -> CodeDistribution:
        """p(z|c), changed so.

        Args:
            prior: any; one that is not autoregressive as it is alone.
            c: the condition of each row; None for a prior without.

        Raises:
            TypeError: the prior draws in its own way, or its network has nothing that stands for no condition, which guidance needs.
            ValueError: a setting is out of range, or there is guidance and no condition.
        """
        return prior(c) if self == Drawing() else self.given(prior, context_of(prior, c))

    def given(self, prior: Prior, r: Num[Tensor, "B M"] | None) -> CodeDistribution:
        """The same of a condition that is encoded already, as windows have it.

        Args:
            prior: autoregressive, in any order.
            r: what the prior's condition makes of c; None for none.

        Raises:
            TypeError: as above, of a prior that is not autoregressive always.
            ValueError: as above.
        """
        if isinstance(prior, InOrder):
            return OrderedCodes(self.given(prior.prior, r), prior.order)
        if not isinstance(prior, Autoregressive):
            raise TypeError(f"{type(prior).__name__} draws in its own way: leave temperature, top_k, top_p and guidance as they are, and the size its own")
        network = prior.network if self.guidance == 1 else Guided(prior.network, self.guidance)
        return TruncatedCodes(network, r, self.temperature, self.top_k, self.top_p)
