"""What a model shows while it learns: images, their reconstructions and dreams, as one grid."""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from latentcomp.checkpoint import written
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise


@torch.no_grad()
def grid(model: LatentVariableModel, learner: Learner, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "C h w"]:
    """Three rows: the images, their reconstructions at the posterior's mode, and as many means of p(x|z) with z from the prior; the same draws each time.

    With a conditional prior there are no dreams, since there is no condition.
    """
    training = model.training
    model.eval(), learner.eval()
    evaluations = model.decoder_evaluations
    rows = [images, model.decode(model.codebook(learner.posterior(model, images).mode)).mean]
    prior = model.prior() if _unconditional(model) else None
    if prior is not None:
        noise = Noise(0, 0, torch.arange(len(images), device=images.device))
        rows.append(model.decode(model.codebook(prior.sample((len(images),), noise))).mean)
    model.train(training), learner.train(training)
    model.decoder_evaluations = evaluations
    padded = torch.nn.functional.pad(torch.stack(rows), (0, 1, 0, 1), value=1.0)
    return rearrange(padded, "r b c h w -> c (r h) (b w)")


def _unconditional(model: LatentVariableModel) -> bool:
    try:
        return model.prior().batch_shape == ()
    except (TypeError, ValueError):
        return False


def tiles(images: Float[Tensor, "n C H W"], columns: int, enlarge: int = 1) -> Float[Tensor, "3 h w"]:
    """Images row by row, a white line around each, each pixel ``enlarge`` pixels a side."""
    images = images.detach().float().cpu().clamp(0, 1).expand(-1, 3, -1, -1).repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    return rearrange(torch.nn.functional.pad(images, (1, 1, 1, 1), value=1.0), "(r b) c h w -> c (r h) (b w)", b=columns)


def save(image: Float[Tensor, "C h w"], path: Path) -> None:
    """Writes a PNG of one channel or three, whole or not at all; values from 0 to 1."""
    from PIL import Image

    pixels = rearrange((image.clamp(0, 1) * 255).round().byte().cpu(), "c h w -> h w c").numpy()
    with written(path) as file:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels[..., :3]).save(file, "PNG")
