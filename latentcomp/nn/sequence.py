"""What a network must offer to be a policy over code sequences: all prefixes in one pass, and one site at a time with a cache."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from latentcomp.described import Described


class Cache(ABC):
    """What a network remembers of R prefixes while their codes are chosen one site at a time."""

    @abstractmethod
    def select(self, rows: Int[Tensor, " r"]) -> None:
        """The rows with these numbers take the place of all, in this order; one that is named more than once is continued in that many ways."""


CacheType = TypeVar("CacheType", bound=Cache)


class SequenceNetwork(Described, nn.Module, ABC, Generic[CacheType]):
    """Logits of each code given the codes before it and a context.

    Rows are the leading axes ``(*S, B)`` of z; the context ``(B, H)`` belongs to the last of them. A code that a site does not have gets the logit -inf.

    Args:
        cardinalities: K_i of each of the N sites.
        context: the linear layer that reads the context, or None for a network without one.
    """

    def __init__(self, cardinalities: Sequence[int], context: nn.Linear | None) -> None:
        super().__init__()
        self.cardinalities = tuple(cardinalities)
        self.context = context

    def _read(self, context: Float[Tensor, "B *sites H"] | None) -> Float[Tensor, "B *sites W"] | None:
        """The context, of the image or of each of its sites, as wide as the network's hidden layers.

        Raises:
            ValueError: the context has another width than the network was built for.
        """
        width = 0 if self.context is None else self.context.in_features
        if context is not None and context.shape[-1] != width:
            raise ValueError(
                f"{type(self).__name__} was built for a context of width {width}, but x was encoded to {context.shape[-1]} features: "
                f"give the network context={context.shape[-1]}"
            )
        return None if context is None or self.context is None else self.context(context)

    @abstractmethod
    def forward(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N K"]:
        """Logits of all sites in one pass; those of site i depend on z_<i alone."""

    @abstractmethod
    def features(self, z: Int[Tensor, "*rows N"], context: Float[Tensor, "B H"] | None = None) -> Float[Tensor, "*rows N1 F"]:
        """Features of all N + 1 prefixes, from the empty to the complete one."""

    @abstractmethod
    def start(self, rows: int, context: Float[Tensor, "B H"] | None = None) -> CacheType:
        """An empty prefix for each of ``rows`` rows, a multiple of B; row r belongs to context r modulo B. The cache is for use without a gradient."""

    @abstractmethod
    def advance(self, cache: CacheType, site: int, z: Int[Tensor, " R"] | None) -> Float[Tensor, "R K"]:
        """The logits of ``site`` after z, the code chosen at the site before (None at site 0), has joined the prefix."""

    def resume(self, rows: int, context: Tensor | None, given: Int[Tensor, "R a"]) -> CacheType:
        """The cache of prefixes that begin with codes already chosen; ``advance(cache, a, given[:, -1])`` comes next.

        One site at a time, unless a network can read them at once. For use without a gradient.
        """
        cache = self.start(rows, context)
        for site in range(given.shape[1]):
            self.advance(cache, site, given[:, site - 1] if site else None)
        return cache

    @property
    def order(self) -> Int[Tensor, " N"] | None:
        """The raster numbers of the sites in the order in which it was built to write them; None where it does not know where they lie in a grid."""
        return None

    def check_condition(self, context: Tensor) -> None:
        """Refuses what a condition cannot be, such as codes outside its vocabulary; where the network knows."""
        return

    def null(self, context: Tensor) -> Tensor:
        """What stands for "no condition" in place of this context, row by row; where the network has it.

        Raises:
            TypeError: it has none; names a network that does.
        """
        raise TypeError(f"{type(self).__name__} has nothing that stands for no condition: use ModernTransformer, or a GPT with a start code")
