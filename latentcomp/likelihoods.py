"""p(x|z): from the decoder's output to a distribution over images.

Given z the C x H x W pixels are independent, so log p(x|z) is a sum over them, in nats, computed in float32 or better. Where it is bilinear in a
statistic of x and one of z (Bernoulli; Gaussian of fixed scale), all data against all codes is one matrix product (``cross_log_prob``).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, constraints
from torch.distributions import Laplace as LaplaceDistribution
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus

from latentcomp.codes.distribution import inverse_cdf
from latentcomp.described import Described
from latentcomp.noise import Noise


def _precise(parameters: Tensor) -> Tensor:
    return parameters if parameters.dtype == torch.float64 else parameters.float()


class PixelDistribution(Distribution, ABC):
    """Independent pixels; batch shape ``(*S, B)``, event shape ``(C, H, W)``. A family gives ``log_prob_pixels``, ``mean`` and ``quantile``."""

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, shape: torch.Size) -> None:
        super().__init__(shape[:-3], shape[-3:], validate_args=False)

    @property
    @abstractmethod
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The image to show."""

    @abstractmethod
    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """log p of each pixel, in nats."""

    @abstractmethod
    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """The inverse of the cumulative distribution: turns uniform noise into a sample."""

    def log_prob(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB"]:
        """log p(x|z) in nats, summed over pixels; x is broadcast over leading sample axes."""
        return self.log_prob_pixels(x).sum((-3, -2, -1))

    def terms(self, x: Num[Tensor, "*B C H W"]) -> dict[str, Float[Tensor, "*SB"]]:
        """The terms of -log p(x|z) by name: one here, several for an energy."""
        return {"reconstruction": -self.log_prob(x)}

    def cross_log_prob(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """log p(x_b|z_m) for all B images and the M rows of this distribution (batch shape ``(M,)``)."""
        return torch.stack([self.log_prob(image) for image in x])

    def sample(self, sample_shape: Sequence[int] = (), noise: Noise | None = None) -> Num[Tensor, "... C H W"]:
        """Images ``(*sample_shape, *S, B, C, H, W)`` without a gradient; ``noise`` owns a stream for each of the B rows."""
        with torch.no_grad():
            noise = noise or Noise.fresh(self.batch_shape[-1], self.mean.device)
            return self.quantile(noise.uniform((*sample_shape, *self.batch_shape[:-1]), self.event_shape, self.mean.dtype))


class BernoulliPixels(PixelDistribution):
    """Binary pixels with the given ``(*S, B, C, H, W)`` logits."""

    def __init__(self, logits: Float[Tensor, "*SB C H W"]) -> None:
        self.logits = _precise(logits)
        super().__init__(logits.shape)

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The probability that each pixel is on."""
        return self.logits.sigmoid()

    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """x l - log(1 + exp l)."""
        return -binary_cross_entropy_with_logits(self.logits, x.to(self.logits.dtype).expand_as(self.logits), reduction="none")

    def cross_log_prob(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """x . l_m - sum log(1 + exp l_m)."""
        logits = self.logits.flatten(1)
        with torch.autocast(logits.device.type, enabled=False):
            return x.to(logits.dtype).flatten(1) @ logits.T - softplus(logits).sum(-1)

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """On where u falls below the mean."""
        return (u < self.mean).to(self.logits.dtype)


class ContinuousPixels(PixelDistribution):
    """Pixels of a location-scale family of torch: Normal or Laplace."""

    def __init__(self, base: Normal | LaplaceDistribution) -> None:
        self.base = base
        super().__init__(base.batch_shape)

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The location."""
        return self.base.mean

    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """The log-density."""
        return self.base.log_prob(x)

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """The base's own inverse."""
        return self.base.icdf(u)


class GaussianPixels(ContinuousPixels):
    """Normal pixels of one common scale."""

    def cross_log_prob(self, x: Num[Tensor, "B C H W"]) -> Float[Tensor, "B M"]:
        """(x . mu_m - |mu_m|^2 / 2 - |x|^2 / 2) / s^2 - P log(s sqrt(2 pi)), P the number of pixels."""
        mean, scale = self.mean.flatten(1), self.base.stddev.flatten(1)[0, 0]
        x = x.to(mean.dtype).flatten(1)
        with torch.autocast(mean.device.type, enabled=False):
            square = x @ mean.T - mean.square().sum(-1) / 2 - x.square().sum(-1, keepdim=True) / 2
        return square / scale.square() - x.shape[-1] * (scale.log() + math.log(2 * math.pi) / 2)


class LogisticPixels(PixelDistribution):
    """Pixels of ``levels`` equidistant grey values in [0, 1]: the mass of a logistic distribution between the midpoints, its tails in the end values
    (Salimans et al., 2017, "PixelCNN++", section 2.1, with one component).
    """

    def __init__(self, location: Float[Tensor, "*SB C H W"], log_scale: Float[Tensor, "*SB C H W"], levels: int) -> None:
        self.location, self.log_scale, self.levels = _precise(location), _precise(log_scale), levels
        super().__init__(location.shape)

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The location, inside [0, 1]."""
        return self.location.clamp(0, 1)

    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b)), which never subtracts two nearly equal numbers."""
        half, scale = 0.5 / (self.levels - 1), self.log_scale.exp()
        x = x.to(self.location.dtype)
        b, a = (x + half - self.location) / scale, (x - half - self.location) / scale
        first, last = x <= half, x >= 1 - half
        inner = logsigmoid(b) + logsigmoid(-a) + torch.log(-torch.expm1(-2 * half / scale))
        return torch.where(first, logsigmoid(b), torch.where(last, logsigmoid(-a), inner))

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """The logistic quantile, rounded to the grid."""
        x = self.location + self.log_scale.exp() * torch.logit(u)
        return (x.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)


class LabelPixels(PixelDistribution):
    """Label maps: x ``(B, 1, H, W)`` holds one of L classes in each pixel; logits are ``(*S, B, L, H, W)``."""

    def __init__(self, logits: Float[Tensor, "*SB L H W"]) -> None:
        self.log_p = _precise(logits).movedim(-3, -1).log_softmax(-1).unsqueeze(-4)
        super().__init__(self.log_p.shape[:-1])

    @property
    def mean(self) -> Float[Tensor, "*SB C H W"]:
        """The most probable class: a label has no mean."""
        return self.log_p.argmax(-1).to(self.log_p.dtype)

    def log_prob_pixels(self, x: Num[Tensor, "*B C H W"]) -> Float[Tensor, "*SB C H W"]:
        """The log-probability of each pixel's class."""
        labels = x.long().expand(self.log_p.shape[:-1])
        return self.log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)

    def quantile(self, u: Float[Tensor, "*B C H W"]) -> Num[Tensor, "*B C H W"]:
        """The inverse of each pixel's cumulative table."""
        return inverse_cdf(self.log_p.expand(*u.shape, -1), u)


class Likelihood(Described, nn.Module):
    """A map from the decoder's output ``(*S, B, C', H, W)`` to p(x|z).

    Attributes:
        normalised: False for an energy exp(-E) whose normaliser is unknown: it never enters a column of nats, and it cannot be sampled.
    """

    normalised = True

    def check(self, x: Tensor) -> None:
        """Refuses images that the family gives no probability.

        Raises:
            TypeError: the images have the wrong type.
            ValueError: their values lie outside the family's support.
        """
        if not x.is_floating_point():
            raise TypeError(f"{type(self).__name__} wants images of a floating type, got {x.dtype}: convert them, e.g. x.float() / 255 for bytes")
        if not x.isfinite().all():
            raise ValueError("the images hold values that are not finite (nan or inf): clean the data first")


class Bernoulli(Likelihood):
    """Binary pixels; the decoder gives logits."""

    def forward(self, parameters: Float[Tensor, "*SB C H W"]) -> BernoulliPixels:
        """p(x|z) with these logits."""
        return BernoulliPixels(parameters)

    def check(self, x: Tensor) -> None:
        """Pixels must be 0 or 1."""
        super().check(x)
        if not ((x == 0) | (x == 1)).all():
            raise ValueError(
                f"a Bernoulli likelihood is a distribution over pixels 0 and 1, but the images hold values from {float(x.min()):g} to {float(x.max()):g}: "
                "binarise them, e.g. (x > 0.5).float(), or choose Gaussian, Laplace or DiscretisedLogistic"
            )


class Gaussian(Likelihood):
    """Normal pixels around the decoder's output, with one scale for all pixels.

    Args:
        scale: the standard deviation, in units of x.
        learned: whether the scale is a parameter.
    """

    def __init__(self, scale: float = 1.0, learned: bool = False) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, parameters: Float[Tensor, "*SB C H W"]) -> ContinuousPixels:
        """p(x|z) with this mean."""
        mean = _precise(parameters)
        return GaussianPixels(Normal(mean, self.log_scale.exp().expand_as(mean), validate_args=False))


class Laplace(Gaussian):
    """Laplace pixels around the decoder's output: the likelihood whose -log is the L1 loss."""

    def forward(self, parameters: Float[Tensor, "*SB C H W"]) -> ContinuousPixels:
        """p(x|z) with this location."""
        location = _precise(parameters)
        return ContinuousPixels(LaplaceDistribution(location, self.log_scale.exp().expand_as(location), validate_args=False))


class DiscretisedLogistic(Likelihood):
    """Grey values k / (levels - 1); the decoder gives 2 C channels, locations and log-scales.

    Args:
        levels: the number of grey values, 256 for bytes.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, parameters: Float[Tensor, "*SB C2 H W"]) -> LogisticPixels:
        """p(x|z); log-scales below -7 are held there, as in PixelCNN++."""
        if parameters.shape[-3] % 2:
            raise ValueError(f"the decoder gives {parameters.shape[-3]} channel(s), but needs two for each of the image's: locations, then log-scales")
        location, log_scale = parameters.chunk(2, -3)
        return LogisticPixels(location, log_scale.clamp_min(-7.0), self.levels)

    def check(self, x: Tensor) -> None:
        """Pixels must lie on the grid."""
        super().check(x)
        steps = x * (self.levels - 1)
        if x.min() < 0 or x.max() > 1 or (steps - steps.round()).abs().max() > 1e-3:
            raise ValueError(
                f"DiscretisedLogistic wants grey values k/{self.levels - 1} in [0, 1]; got values from {float(x.min()):g} to {float(x.max()):g}: "
                "rescale the images, e.g. x.float() / 255 for bytes, or give the likelihood as many levels as they have"
            )


class Categorical(Likelihood):
    """Label maps ``(B, 1, H, W)`` of whole numbers; the decoder gives one channel of logits a class.

    Args:
        classes: L, the number of labels.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, parameters: Float[Tensor, "*SB L H W"]) -> LabelPixels:
        """p(x|z) with these logits."""
        if parameters.shape[-3] != self.classes:
            raise ValueError(f"the decoder gives {parameters.shape[-3]} channels, but there are {self.classes} classes")
        return LabelPixels(parameters)

    def check(self, x: Tensor) -> None:
        """Pixels must be labels 0..L-1."""
        if x.is_complex() or x.shape[1] != 1:
            raise ValueError(
                f"label maps have one channel of whole numbers; got shape {tuple(x.shape)} of {x.dtype}: "
                "number the classes, e.g. x.argmax(1, keepdim=True) for one-hot maps"
            )
        if x.min() < 0 or x.max() >= self.classes or (x != x.round()).any():
            raise ValueError(
                f"labels must be whole numbers in 0..{self.classes - 1}; got values from {float(x.min()):g} to {float(x.max()):g}: "
                "renumber them, or build Categorical with as many classes as there are labels"
            )
