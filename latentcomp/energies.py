"""exp(-E(x, x_hat) / T): a perceptual energy in the place of p(x|z), for losses that say how an image looks.

    E(x, x_hat) = w_1 mean |x - x_hat| + w_d d(x, x_hat),       log p~(x|z) = -E / T                                    (Esser et al., 2021)

with d a perceptual distance such as LPIPS. The integral of exp(-E / T) over x is not known and depends on z, so this is no distribution: it has no place in
a column of nats, nothing can be dreamt from it, and exp(-E / T) p(z), normalised over z, is a generalised posterior (Bissiri et al., 2016) whose temperature
T says how much an image tells about its codes. T must be given: with T = 1 a learner's reconstruction loss is VQGAN's own, E itself.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from latentcomp import objectives
from latentcomp.likelihoods import Likelihood, PixelDistribution

Distance = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class OfAllPairs(Protocol):
    """A distance that knows a cheaper way to all pairs of two sets than one pair after the other."""

    def cross(self, x: Tensor, y: Tensor) -> Tensor:
        """``(B, C, H, W)`` and ``(M, C, H, W)`` to ``(B, M)``."""


class EnergyPixels(PixelDistribution):
    """Images ``(*S, B, C, H, W)`` with an energy around each."""

    def __init__(self, x_hat: Float[Tensor, "*SB C H W"], energy: "PerceptualEnergy") -> None:
        self.x_hat, self.energy = x_hat if x_hat.dtype.itemsize > 4 else x_hat.float(), energy
        super().__init__(x_hat.shape)

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The image of least energy."""
        return self.x_hat

    def terms(self, x: Num[Tensor, "*B C H W"]) -> dict[str, Float[Tensor, "*SB"]]:
        """The parts of E / T by name."""
        return {name: part / self.energy.temperature for name, part in self.energy.parts(x, self.x_hat).items()}

    def log_prob(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB"]:
        """-E(x, x_hat) / T, without the normaliser that nobody knows; x is broadcast over leading sample axes."""
        return -sum(self.terms(x).values(), start=self.x_hat.new_zeros(()))

    def cross_log_prob(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """-E(x_b, x_hat_m) / T of all pairs."""
        return -self.energy.cross(x, self.x_hat) / self.energy.temperature

    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """There is none: a distance between features belongs to no pixel.

        Raises:
            ValueError: always.
        """
        raise ValueError("a perceptual energy is one number for an image, not a sum over its pixels: ask for log_prob")

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError("a perceptual energy is unnormalised: x cannot be drawn from it. Show its mean instead")


class PerceptualEnergy(Likelihood):
    """The energy around the decoder's output.

    Args:
        distance: d(x, y), images ``(B, C, H, W)`` and ``(*S, B, C, H, W)`` to ``(*S, B)``, such as ``nn.LPIPS``; None for the L1 term alone.
        temperature: T; no default, since it decides how sure the generalised posterior is.
        weight: w_d.
        pixel_weight: w_1; at 0 the distance stands alone, as in the paper's words.

    Raises:
        ValueError: there is no temperature, or a temperature or weight that makes no energy.
    """

    normalised = False

    def __init__(self, distance: nn.Module | None = None, temperature: float | None = None, weight: float = 1.0, pixel_weight: float = 1.0) -> None:
        super().__init__()
        if temperature is None or not temperature > 0:
            raise ValueError(
                f"{type(self).__name__} is exp(-E/T), and its temperature T > 0 decides how sure the posterior is; got temperature={temperature}: "
                "pass temperature=1.0 for VQGAN's own loss, less for a surer posterior"
            )
        if min(weight, pixel_weight) < 0 or not (pixel_weight or (weight and distance is not None)):
            raise ValueError(f"an energy needs a part of positive weight and none of a negative one; got weight={weight}, pixel_weight={pixel_weight}")
        self.distance, self.temperature, self.weight, self.pixel_weight = distance, temperature, weight, pixel_weight

    def forward(self, parameters: Float[Tensor, "*SB C H W"]) -> EnergyPixels:
        """exp(-E / T) around this image."""
        return EnergyPixels(parameters, self)

    def parts(self, x: Num[Tensor, "*B C H W"], x_hat: Float[Tensor, "*SB C H W"]) -> dict[str, Float[Tensor, "*SB"]]:
        """The parts of E by name, each weighted: "l1" and "perceptual"."""
        x = x.to(x_hat.dtype)
        with torch.autocast(x_hat.device.type, enabled=False):
            parts = {"l1": self.pixel_weight * objectives.absolute_error(x, x_hat)} if self.pixel_weight else {}
            if self.distance is not None and self.weight:
                rows = x if x.ndim > 3 else x.expand(x_hat.shape[-4], -1, -1, -1)  # one image against all rows, as ``cross_log_prob`` asks
                parts["perceptual"] = self.weight * self.distance(rows, x_hat)
        return parts

    def cross(self, x: Num[Tensor, "B C H W"], x_hat: Float[Tensor, "M C H W"]) -> Float[Tensor, "B M"]:
        """E of all pairs: what enumeration asks for, where a distance such as LPIPS passes each image through its network once."""
        if not (self.weight and isinstance(self.distance, OfAllPairs)):
            return torch.stack([torch.stack(list(self.parts(image, x_hat).values())).sum(0) for image in x])
        x = x.to(x_hat.dtype)
        with torch.autocast(x_hat.device.type, enabled=False):
            return self.weight * self.distance.cross(x, x_hat) + self.pixel_weight * torch.stack([objectives.absolute_error(image, x_hat) for image in x])
