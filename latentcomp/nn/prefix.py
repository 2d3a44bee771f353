"""The codes of a condition as vectors that stand before those of z: a vocabulary of their own, learned positions, and one code more for "no condition"."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.described import Described


def refuse_unless(inside: Bool[Tensor, ""], values: Tensor, message: str) -> None:
    """Refuses values of which some lie outside a range.

    Raises:
        ValueError: names the range; where the values lie on a device, an assertion of that device, since reading the answer would wait for it at every step.
    """
    if not values.is_cpu:
        torch._assert_async(inside, message)
    elif not inside:
        raise ValueError(f"{message}; got values from {float(values.min()):g} to {float(values.max()):g}")


class ConditionCodes(Described, nn.Module):
    """M codes of C to M vectors.

    Args:
        vocabulary: C; 0 for a network without conditions.
        length: M.
        width: of the vectors.
    """

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        if vocabulary < 0 or length < 1:
            raise ValueError(f"a condition is one code or more out of a vocabulary (0: out of none); got {length} code(s) out of {vocabulary}")
        self.vocabulary, self.length = vocabulary, length
        self.tokens = nn.Embedding(vocabulary + 1, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))

    def null(self, rows: int = 1) -> Int[Tensor, "R M"]:
        """The code that means "no condition", at all M positions."""
        return torch.full((rows, self.length), self.vocabulary, device=self.positions.device)

    def check(self, r: Int[Tensor, "R M"]) -> None:
        """Refuses what no condition is: "no condition" is said by leaving the condition out (``unconditioned``), not by a code.

        Raises:
            ValueError: a code lies outside 0..C-1 (on an accelerator its own assertion says so), or there is no vocabulary.
        """
        if not self.vocabulary:
            raise ValueError("the network was built without conditions: build it with conditions=(C, M), or give the prior none")
        refuse_unless(((r >= 0) & (r < self.vocabulary)).all(), r, f"a condition's codes must lie in its vocabulary 0..{self.vocabulary - 1}")

    def forward(self, r: Int[Tensor, "R M"]) -> Float[Tensor, "R M W"]:
        """The vectors.

        Raises:
            ValueError: another number of codes than M, or a code outside the vocabulary (on an accelerator the device's own assertion says so).
        """
        if r.shape[-1] != self.length:
            raise ValueError(f"the network was built for conditions of {self.length} code(s), got {r.shape[-1]}: give it the same grid, or build it for yours")
        try:
            return self.tokens(r) + self.positions
        except IndexError:
            raise ValueError(
                f"a condition's codes must lie in its vocabulary 0..{self.vocabulary - 1}; got values from {int(r.min())} to {int(r.max())}, "
                f"where {self.vocabulary} stands for none"
            ) from None
