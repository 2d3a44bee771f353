"""Tiny models, in float64, whose K^N codes can all be written down, and the answers that follow from them."""

from collections.abc import Callable

import torch
from torch import nn

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.geometry import Geometry
from latentcomp.enumeration import all_codes
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder, ImageTrunk, SiteHead
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.posterior import Posterior
from latentcomp.posteriors.softmax_distance import SoftmaxDistance
from latentcomp.priors import Autoregressive as AutoregressivePrior
from latentcomp.priors import Prior, Uniform

IMAGE = (1, 2, 3)
FEATURES = 5
WIDTH = 2


def tiny_model(
    sites: int = 2, codes: int = 3, learned_prior: bool = False, seed: int = 0, codebook: Callable[[int, int], Geometry] = Codebook
) -> LatentVariableModel:
    """Six binary pixels, codes^sites code sequences, weights large enough that the posterior is far from uniform."""
    torch.manual_seed(seed)
    prior: Prior = Uniform(sites, codes)
    if learned_prior:
        prior = AutoregressivePrior(CausalTransformer((codes,) * sites, width=8, layers=1, heads=2))
    model = LatentVariableModel(prior, codebook(codes, WIDTH), ImageDecoder(sites, WIDTH, (8,), IMAGE), Bernoulli())
    for parameter in model.decoder.parameters():
        parameter.data.mul_(2.0)
    if learned_prior:
        for parameter in prior.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.double()


class Perceptual(Bernoulli):
    """A likelihood that calls itself an unnormalised energy, as a perceptual distance would be."""

    normalised = False


def trunk() -> nn.Module:
    """Features of the tiny images."""
    return ImageTrunk(IMAGE, (FEATURES,))


def posterior(kind: str, sites: int = 2, codes: int = 3, seed: int = 1) -> Posterior:
    """A posterior of the named kind for the tiny model, in float64."""
    torch.manual_seed(seed)
    to_codebook = nn.Sequential(trunk(), SiteHead(FEATURES, sites, WIDTH))
    made: Posterior = {
        "nearest_code": lambda: NearestCode(to_codebook),
        "factorised": lambda: Factorised(trunk(), SiteHead(FEATURES, sites, codes)),
        "softmax_distance": lambda: SoftmaxDistance(to_codebook),
        "prefix_mlp": lambda: Autoregressive(trunk(), PrefixMLP((codes,) * sites, FEATURES, 8)),
        "transformer": lambda: Autoregressive(trunk(), CausalTransformer((codes,) * sites, FEATURES, width=8, layers=2, heads=2)),
    }[kind]()
    return made.double()


def tiny_images(n: int = 4, seed: int = 2) -> torch.Tensor:
    """Binary images for the tiny model."""
    return torch.rand(n, *IMAGE, generator=torch.Generator().manual_seed(seed)).round().double()


def brute_force_log_joint(model: LatentVariableModel, x: torch.Tensor) -> torch.Tensor:
    """log p(x_b, z_m) of all images and codes, by a loop over codes and a sum over pixels written out, sharing no code with ``enumeration``."""
    columns = []
    for z in all_codes(model.cardinalities):
        books = getattr(model.codebook, "books", [model.codebook])  # of a residual quantiser: a vector is a sum
        e = torch.stack([sum(book.vectors[k] for book, k in zip(books, codes, strict=True)) for codes in z.view(-1, len(books))])
        on = model.decoder(e.unsqueeze(0)).sigmoid()
        log_px_z = (x * on.log() + (1 - x) * (1 - on).log()).flatten(1).sum(1)
        columns.append(log_px_z + model.prior().log_prob(z.unsqueeze(0)))
    return torch.stack(columns, 1)
