"""Where codes and encoder outputs are compared: as they are, or on the unit sphere."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from latentcomp.described import Described


class Space(Described, ABC):
    """A map that codes and encoder outputs alike go through before they are compared, and before a decoder sees them."""

    @abstractmethod
    def __call__(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The points."""


class Euclidean(Space):
    """As they are."""

    def __call__(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The same."""
        return h


class Sphere(Space):
    """h / |h|: the nearest code is that of the largest cosine (Yu et al., 2022, "ViT-VQGAN"). It wants few dimensions, 8 to 32; zero stays zero."""

    def __call__(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Unit vectors."""
        return normalize(h, dim=-1)
