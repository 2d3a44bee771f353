"""Lookup-free quantisation (Yu et al., 2024, arXiv 2310.05737, "MAGVIT-v2"): each of log2 K dimensions is its sign.

The codes are the corners of the cube {-1, 1}^D, none of them learned. What keeps them in use is an entropy term, which wants q(k|h) ~ exp(-||h - e_k||^2 / t)
to be certain for each h and uniform on average. It is a product over dimensions, q(k|h) = prod_i sigmoid(4 h_i e_ki / t): its entropy is a sum of D entropies
of coins, and its mean over all h, a table of K numbers, is a matrix product of two tables of sqrt K.
Code numbers have the first dimension for their highest bit, as in the independent implementation that the tests compare with.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from latentcomp.codebook.geometry import Geometry


class LFQ(Geometry):
    """The corners of a cube.

    Args:
        codes: K, a power of two; D is log2 K.

    Raises:
        ValueError: K is none.
    """

    powers: Tensor
    corners: Tensor

    def __init__(self, codes: int) -> None:
        super().__init__()
        if codes < 2 or codes & (codes - 1):
            near = f"{2 ** max(1, codes.bit_length() - 1)} or {2 ** max(2, codes.bit_length())}"
            raise ValueError(f"LFQ has a power of two codes, one for each way to choose D signs; got K={codes}: take {near}")
        self.register_buffer("powers", 2 ** torch.arange(codes.bit_length() - 2, -1, -1), persistent=False)
        self.register_buffer("corners", _corners(self.powers), persistent=False)

    @property
    def vectors(self) -> Float[Tensor, "K D"]:
        """The corners."""
        return self.corners

    def nearest(self, h: Float[Tensor, "*B D"], cardinalities: Sequence[int] | None = None) -> Int[Tensor, "*B"]:
        """The bits of the signs; zero counts as negative.

        Raises:
            ValueError: h has another dimension than the cube.
        """
        if h.shape[-1] != self.width:
            raise ValueError(f"K={self.codes} codes are signs of D={self.width} dimensions, h has {h.shape[-1]}: build the encoder with width {self.width}")
        if cardinalities is not None and min(cardinalities) < self.codes:
            return super().nearest(h, cardinalities)
        return ((h > 0) * self.powers).sum(-1)

    def soft(self, h: Float[Tensor, "B N D"], temperature: float) -> tuple[Float[Tensor, " M"], Float[Tensor, " K"]]:
        """Entropies and mean of q(k|h), from products over dimensions."""
        logits = 4 * h.flatten(0, -2) / temperature
        on, off = logsigmoid(logits), logsigmoid(-logits)
        entropies = -(on.exp() * on + off.exp() * off).sum(-1)
        middle = self.width // 2
        high, low = (_product(on[:, part], off[:, part]) for part in (slice(middle), slice(middle, None)))
        return entropies, (high.T @ low).flatten() / len(logits)


def _corners(powers: Tensor) -> Float[Tensor, "K D"]:
    return ((torch.arange(2 ** len(powers)).unsqueeze(-1) & powers) > 0).to(torch.get_default_dtype()) * 2 - 1


def _product(on: Float[Tensor, "M d"], off: Float[Tensor, "M d"]) -> Float[Tensor, "M k"]:
    """The probabilities of all 2^d corners, from the log-probabilities of the signs; the first sign is the highest bit."""
    table = on.new_zeros(len(on), 1)
    for i in range(on.shape[-1]):
        table = torch.stack([table + off[:, i, None], table + on[:, i, None]], -1).flatten(1)
    return table.exp()
