"""What keeps a codebook in use while it is quantised: encoder outputs that are certain of their code, and all codes wanted by some (Yu et al., 2024)."""

from jaxtyping import Float
from torch import Tensor

from latentcomp import objectives, processes
from latentcomp.codebook.geometry import Geometry


class CodeEntropy:
    """weight * ``objectives.entropy_loss`` of q(k|h) ~ exp(-||h - e_k||^2 / temperature).

    The average is over the vectors of a micro-batch, those of all processes together, so that it is the one loss here that accumulation changes: keep
    micro-batches large.

    Args:
        weight: of the term.
        diversity: of the entropy of the average against the average entropy; above 1, more codes are wanted than certainty.
        temperature: in the units of squared distances.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(self, weight: float = 0.1, diversity: float = 1.0, temperature: float = 0.01) -> None:
        if temperature <= 0:
            raise ValueError(f"the temperature of q(k|h) must be positive, got {temperature}")
        self.weight, self.diversity, self.temperature = weight, diversity, temperature

    def __call__(self, codebook: Geometry, h: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
        """The term, with a gradient in h and in the vectors."""
        entropies, mean = codebook.soft(h, self.temperature)
        return self.weight * objectives.entropy_loss(entropies, processes.shared_mean(mean, len(entropies)), self.diversity)
