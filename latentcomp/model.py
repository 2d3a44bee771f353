"""The model p(x, z) = p(z) p(x|z): what everything else in this package is about.

z is a sequence of N codes. The codebook turns them into embeddings e = E[z], the decoder turns embeddings into the parameters of a distribution over
images, and the prior says how probable codes are. Their parameters together are theta. How the posterior p(z|x) is represented and learned is nobody's
business here: see ``posteriors`` and ``learners``.
"""

import copy
from functools import cached_property

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from latentcomp.chunks import images_at_once, in_chunks, widest
from latentcomp.codebook.geometry import Geometry
from latentcomp.described import Described
from latentcomp.likelihoods import Likelihood, PixelDistribution
from latentcomp.noise import Noise
from latentcomp.priors import Prior


class LatentVariableModel(Described, nn.Module):
    """p(x, z) = p(z) p(x | e(z)).

    Args:
        prior: p(z) or p(z|c).
        codebook: e = E[z], of any geometry, with as many codes as the prior's largest site.
        decoder: maps embeddings ``(B, N, D)`` to the likelihood's parameters ``(B, C', H, W)``.
        likelihood: maps those parameters to p(x|z).

    Raises:
        ValueError: the prior and the codebook disagree on K, or on how many sites describe one vector.
    """

    def __init__(self, prior: Prior, codebook: Geometry, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        if codebook.codes != max(prior.cardinalities):
            raise ValueError(f"the codebook has K={codebook.codes} codes, but the prior's sites take up to {max(prior.cardinalities)}: give both the same K")
        if len(prior.cardinalities) % codebook.depth:
            raise ValueError(
                f"the codebook describes each vector by {codebook.depth} codes, but the prior has {len(prior.cardinalities)} sites: "
                f"give it {codebook.depth} sites for each vector"
            )
        self.prior, self.codebook, self.decoder, self.likelihood = prior, codebook, decoder, likelihood
        self.decoder_evaluations = 0  # images decoded so far: the cost that learners differ in

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """K_i of each of the N sites."""
        return self.prior.cardinalities

    @property
    def image_shape(self) -> torch.Size:
        """``(C, H, W)`` of the images that the decoder makes."""
        return self._one_image[0]

    @cached_property
    def _one_image(self) -> tuple[torch.Size, int]:
        """Its shape, and how many numbers the widest layer of the decoder leaves of it."""
        z = torch.zeros(1, len(self.cardinalities), dtype=torch.long, device=next(self.decoder.parameters()).device)
        with torch.no_grad(), widest(self.decoder) as sizes:
            return self.likelihood(self.decoder(self.codebook(z))).event_shape, max(sizes)

    def decode(self, e: Float[Tensor, "*SB N D"]) -> PixelDistribution:
        """p(x|z) with batch shape ``(*S, B)``; takes embeddings, so that relaxed codes pass too. Without a gradient, a part of them at a time (``chunks``)."""
        rows = e.reshape(-1, *e.shape[-2:])
        parameters = self.decoder(rows) if torch.is_grad_enabled() else in_chunks(self.decoder, rows, images_at_once(self._one_image[1], rows))
        self.decoder_evaluations += len(parameters)
        return self.likelihood(parameters.view(*e.shape[:-2], *parameters.shape[1:]))

    def log_likelihood(self, x: Num[Tensor, "B C H W"], z: Int[Tensor, "*SB N"]) -> Float[Tensor, "*SB"]:
        """log p(x|z) in nats, summed over pixels."""
        return self.decode(self.codebook(z)).log_prob(x)

    def log_joint(self, x: Num[Tensor, "B C H W"], z: Int[Tensor, "*SB N"], c: Tensor | None = None) -> Float[Tensor, "*SB"]:
        """log p(z|c) + log p(x|z) in nats, for codes ``(*S, B, N)``: any number of samples for each image.

        Raises:
            ValueError: x does not have the model's image shape, or a code lies outside 0..K-1.
        """
        self.check_shape(x)
        return self.log_likelihood(x, z) + self.prior(c).log_prob(z)

    def sample(self, n: int, c: Tensor | None = None, noise: Noise | None = None) -> tuple[Num[Tensor, "n C H W"], Int[Tensor, "n N"]]:
        """Dreams (x, z) ~ p(z|c) p(x|z), without a gradient.

        Args:
            n: how many; with a condition, its number of rows.
            c: ``(n, ...)`` conditions, or None.
            noise: one stream for each row; by default the draws follow ``torch.manual_seed``.

        Raises:
            ValueError: the likelihood is an unnormalised energy, which cannot be sampled, or n is not the number of conditions.
        """
        if not self.likelihood.normalised:
            raise ValueError(
                f"{type(self.likelihood).__name__} is an unnormalised energy: x cannot be drawn from it, so the model cannot dream. "
                "Show model.decode(...).mean of prior codes instead, and train without a sleep phase"
            )
        with torch.no_grad():
            prior = self.prior(c)
            if prior.batch_shape not in ((), (n,)):
                raise ValueError(f"{n} dreams of {prior.batch_shape[0]} conditions: pass n={prior.batch_shape[0]}, one dream for each condition")
            noise = noise or Noise.fresh(n, next(self.decoder.parameters()).device)
            z = prior.sample((() if prior.batch_shape else (n,)), noise)
            return self.decode(self.codebook(z)).sample((), noise), z

    def check_shape(self, x: Tensor) -> None:
        """Refuses images of another shape than the decoder makes.

        Raises:
            ValueError: names both shapes.
        """
        if x.ndim != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(
                f"images must have shape (B, {', '.join(map(str, self.image_shape))}), which is what the decoder makes; got {tuple(x.shape)}. "
                "Resize or unsqueeze the images, or build the decoder for them"
            )

    def check(self, x: object) -> None:
        """Refuses images of a wrong shape, type or range. It looks at every value: call it once a data set, not in a loop.

        Raises:
            TypeError: x is no tensor, or of a wrong type.
            ValueError: x has a wrong shape or values outside the likelihood's support.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"images must be a torch.Tensor of shape (B, C, H, W), got {type(x).__name__}: convert them with torch.as_tensor")
        self.check_shape(x)
        if len(x) == 0:
            raise ValueError("there are no images: the batch is empty")
        self.likelihood.check(x)


def with_prior(model: LatentVariableModel, prior: Prior) -> LatentVariableModel:
    """The same codebook, decoder and likelihood under another prior; parameters are shared, not copied."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.prior = prior
    return other
