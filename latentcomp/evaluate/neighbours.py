"""The nearest training images of samples: FID rewards a model that has learned its training images by heart, and only a look beside them shows it.

Distances are Euclidean between features of images, by default the pixels of both at a quarter of their size, so that a shift of a pixel counts little.
The share of a sample's distance to that of a held-out image says the same in one number: near 1 for new images, near 0 for copies.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from latentcomp.batch import Batch
from latentcomp.evaluate.protocol import Measure

Features = Callable[[Tensor], Tensor]


def small_pixels(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
    """The pixels of images at a quarter of their height and width."""
    return adaptive_avg_pool2d(x, (max(x.shape[-2] // 4, 1), max(x.shape[-1] // 4, 1))).flatten(1)


class Neighbours(NamedTuple):
    """Of each of Q images.

    Attributes:
        distances: in the features, the nearest first.
        positions: in their set.
        images: the neighbours themselves.
    """

    distances: Float[Tensor, "Q k"]
    positions: Int[Tensor, "Q k"]
    images: Float[Tensor, "Q k C H W"]


@torch.no_grad()
def nearest(images: Float[Tensor, "Q C H W"], batches: Iterable[Batch], k: int = 3, features: Features = small_pixels) -> Neighbours:
    """The k nearest of many images, which come in batches and are not kept.

    Args:
        images: whose neighbours are sought.
        batches: the images to seek among.
        k: how many; at most as many as there are.
        features: in which distances are taken.

    Raises:
        ValueError: there are fewer than k images to seek among.
    """
    wanted, best = features(images), None
    for batch in batches:
        found = _ranked(torch.cdist(wanted, features(batch.x)), batch, k)
        best = found if best is None else _nearest(Neighbours(*(torch.cat(pair, 1) for pair in zip(best, found, strict=True))), k)
    if best is None or best.distances.shape[1] < k:
        raise ValueError(f"{k} neighbours were sought among {0 if best is None else best.distances.shape[1]} images")
    return best


def _ranked(distances: Float[Tensor, "Q B"], batch: Batch, k: int) -> Neighbours:
    """The nearest of one batch: only their images are gathered, not the batch for each query."""
    order = distances.sort(dim=1, stable=True).indices[:, :k]
    return Neighbours(distances.gather(1, order), batch.positions[order], batch.x[order])


def _nearest(found: Neighbours, k: int) -> Neighbours:
    order = found.distances.sort(dim=1, stable=True).indices[:, :k]
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return Neighbours(*(field[rows, order] for field in found))


def novelty(samples: Neighbours, held_out: Neighbours) -> Measure:
    """The mean distance of samples to their nearest training image over that of held-out images: near 0 where samples are copies."""
    return Measure(float(samples.distances[:, 0].mean() / held_out.distances[:, 0].mean()), "of held-out images'")
