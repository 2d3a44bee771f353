"""A discrete VAE on the 8x8 digits, written as a Pyro model: four codes of six, so 1,296 images; its decoder is trained by exact EM and then frozen."""

import functools
from collections.abc import Callable

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical
from torch import Tensor

from latentcomp.codebook.codebook import Codebook
from latentcomp.data import digits
from latentcomp.learners.em import EM
from latentcomp.likelihoods import Bernoulli as BernoulliPixels
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.priors import Uniform
from latentcomp.train import fit

SITES, CODES, WIDTH, IMAGE = 4, 6, 8, (1, 8, 8)


@functools.cache
def decoder(updates: int = 300) -> LatentVariableModel:
    """The frozen model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, learner = LatentVariableModel(Uniform(SITES, CODES), Codebook(CODES, WIDTH), ImageDecoder(SITES, WIDTH, (64,), IMAGE), BernoulliPixels()), EM()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in fit(model, learner, digits().batches(100, updates, 0), optimizer):
            pass
    return model.requires_grad_(False).eval()


def program_of(model: LatentVariableModel) -> Callable[[Tensor], None]:
    """The program whose decoder is that model's."""

    def program(x: Tensor) -> None:
        """Codes ``(B, 4)`` behind images ``(B, 64)``."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Categorical(torch.ones(SITES, CODES) / CODES).to_event(1))
            e = model.codebook(z)
            logits = model.decoder(e.reshape(-1, SITES, WIDTH)).reshape(*z.shape[:-1], -1)
            pyro.sample("x", Bernoulli(logits=logits).to_event(1), obs=x)

    return program


def program(x: Tensor) -> None:
    """The trained one."""
    program_of(decoder())(x)


def data(n: int, seed: int) -> Tensor:
    """Binary digits ``(n, 64)``: the training images, or for another seed than 0 those of the test set."""
    split = digits()
    images = (split.train if seed == 0 else split.test).flatten(1)
    return images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]]
