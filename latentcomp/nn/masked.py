"""The network of MaskGIT (Chang et al., 2022): a transformer without a direction, which predicts hidden codes from all that are not hidden."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from latentcomp.described import Described
from latentcomp.nn.prefix import ConditionCodes
from latentcomp.nn.transformer import Block, initialise


class MaskedTransformer(Described, nn.Module):
    """Logits of every site from the codes that are not hidden and the condition's.

    Args:
        cardinalities: K at each of the N sites, the same everywhere.
        width: of the residual stream, a multiple of ``heads``.
        layers: the number of blocks.
        heads: the number of attention heads.
        conditions: (C, M), the condition's vocabulary and its number of codes; (0, 1) for none.

    Raises:
        ValueError: the sites differ.
    """

    def __init__(self, cardinalities: Sequence[int], width: int = 256, layers: int = 6, heads: int = 8, conditions: tuple[int, int] = (0, 1)) -> None:
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        if len(set(self.cardinalities)) != 1:
            raise ValueError(f"MaskedTransformer wants the same K at all sites; got cardinalities {sorted(set(self.cardinalities))}")
        n, k = len(self.cardinalities), self.cardinalities[0]
        self.condition = ConditionCodes(*conditions, width)
        self.tokens = nn.Embedding(k + 1, width)  # the last stands for a hidden code
        self.positions = nn.Parameter(0.02 * torch.randn(n, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, k)
        self.apply(initialise)

    def check_condition(self, context: Int[Tensor, "B M"]) -> None:
        """Refuses codes outside the condition's vocabulary.

        Raises:
            ValueError: as :meth:`ConditionCodes.check`.
        """
        self.condition.check(context)

    def forward(self, z: Int[Tensor, "*rows N"], hidden: Bool[Tensor, "*rows N"], context: Int[Tensor, "B M"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites; where a code is hidden, what z holds there changes nothing."""
        r = (self.condition.null() if context is None else context).expand(*z.shape[:-1], -1)
        read = z.masked_fill(hidden, self.cardinalities[0]).reshape(-1, z.shape[-1])
        h = torch.cat([self.condition(r.reshape(-1, r.shape[-1])), self.tokens(read) + self.positions], 1)
        seen = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device)
        for block in self.blocks:
            h = block(h, seen)
        return self.head(self.norm(h[:, r.shape[-1] :])).view(*z.shape, -1)
