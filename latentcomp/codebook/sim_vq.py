"""SimVQ (Zhu et al., 2024, arXiv 2411.02038): fixed random vectors seen through one learned linear map, e_k = W c_k.

A gradient on a free codebook moves the vectors that were chosen, and the others fall behind; a gradient on W moves all of them at once.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lookup import lookup


class SimVQ(Geometry):
    """K fixed vectors from N(0, 1/D), and a learned D x D matrix.

    Args:
        codes: K.
        width: D.

    Raises:
        ValueError: no code or no dimension.
    """

    fixed: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        if codes < 1 or width < 1:
            raise ValueError(f"a codebook needs K >= 1 codes of D >= 1 dimensions; got K={codes}, D={width}")
        self.register_buffer("fixed", torch.randn(codes, width) * width**-0.5)
        self.linear = nn.Linear(width, width, bias=False)

    @property
    def vectors(self) -> Float[Tensor, "K D"]:
        """W c_k."""
        return self._mapped(self.fixed)

    @property
    def codes(self) -> int:
        """K."""
        return len(self.fixed)

    @property
    def width(self) -> int:
        """D."""
        return self.linear.out_features

    def forward(self, z: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        """W c_z: the map of the chosen vectors alone.

        Raises:
            TypeError: the codes are no whole numbers.
            ValueError: a code lies outside 0..K-1.
        """
        return self._mapped(lookup(z, self.fixed))

    def _mapped(self, c: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """W c, in the codebook's own precision: distances to sixteen bits would be too coarse to choose by."""
        with torch.autocast(c.device.type, enabled=False):
            return self.linear(c)
