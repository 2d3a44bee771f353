"""What image rows of a table are judged by: how near reconstructions are to their images, how near samples are to them as a set, and which codes are used.

``ImageMeasures`` is one object that ``judge``, ``compare`` and ``experiments`` call with a trained model; the functions below it take batches one at a time
and keep no images. Modules are used in the mode they are in: put them into evaluation mode first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from latentcomp.batch import Batch
from latentcomp.data.split import Split
from latentcomp.evaluate.extractors import Extractor
from latentcomp.evaluate.fidelity import Distance, Fidelity
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.realism import Realism
from latentcomp.evaluate.usage import Tally
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior

Draw = Callable[[int, int], Tensor]  # (first, number) to images (number, C, H, W): a sampler of a second stage


class ImageMeasures:
    """psnr, ssim, l1, perceptual distances, rfid and rkid of reconstructions, fid and kid of samples, code usage over the whole set.

    Args:
        distances: perceptual distances by name, as for :class:`~latentcomp.evaluate.fidelity.Fidelity`.
        extractors: for rfid and fid; each measure carries its extractor's name, as in ``rfid_vgg16``.
        kinds: of distances between sets; see :mod:`~latentcomp.evaluate.realism`.
        signed: whether images lie in [-1, 1]; else in [0, 1], and are brought there.
        size: images at a time.
    """

    def __init__(
        self,
        distances: Mapping[str, Distance] = MappingProxyType({}),
        extractors: Sequence[Extractor] = (),
        kinds: Sequence[str] = ("fid", "kid"),
        signed: bool = True,
        size: int = 64,
    ) -> None:
        self.distances, self.extractors, self.kinds, self.signed, self.size = distances, tuple(extractors), tuple(kinds), signed, size

    def __call__(self, model: LatentVariableModel, learner: Learner, data: Split) -> dict[str, Measure]:
        """All measures on the test images; samples, as many as test images, are those of the model's own prior (in ``judge``: the fitted one)."""
        measures = self.of_images(model, learner.posterior, data.test)
        if self.extractors:
            measures |= self.of_samples(data.test.split(self.size), prior_samples(model), len(data.test))
        return measures

    def of_images(self, model: LatentVariableModel, posterior: Posterior, x: Float[Tensor, "n C H W"]) -> dict[str, Measure]:
        """Of these images through the posterior's most probable codes and back."""
        rows = torch.arange(len(x), device=x.device).split(self.size)
        return self.of_reconstructions(model, posterior, (Batch(x[row], None, None, row) for row in rows))

    @torch.no_grad()
    def of_reconstructions(self, model: LatentVariableModel, posterior: Posterior, batches: Iterable[Batch]) -> dict[str, Measure]:
        """Of images through the posterior's most probable codes and back."""
        fidelity, tally = Fidelity(self.distances), Tally(len(model.cardinalities), model.codebook.codes)
        sets = [Realism(extractor, [kind for kind in self.kinds if kind != "is"]) for extractor in self.extractors]
        for batch in batches:
            z = posterior(model, batch.x, batch.c).mode
            x, made = self._signed(batch.x), self._signed(model.decode(model.codebook(z)).mean)
            fidelity.update(x, made)
            tally.update(z)
            for realism in sets:
                realism.update(x, real=True)
                realism.update(made, real=False)
        usage = tally.usage()
        measures = fidelity.measures() | {"code_usage": Measure(usage.used, "share"), "code_perplexity": Measure(usage.perplexity, "codes")}
        for realism in sets:
            measures |= realism.measures("r")
        return measures

    @torch.no_grad()
    def of_samples(self, real: Iterable[Tensor], draw: Draw, number: int) -> dict[str, Measure]:
        """Of so many samples against real images."""
        sets = [Realism(extractor, self._kinds(extractor)) for extractor in self.extractors]
        for x in real:
            for realism in sets:
                realism.update(self._signed(x), real=True)
        for first in range(0, number, self.size):
            made = self._signed(draw(first, min(self.size, number - first)))
            for realism in sets:
                realism.update(made, real=False)
        return {name: measure for realism in sets for name, measure in realism.measures().items()}

    def _kinds(self, extractor: Extractor) -> list[str]:
        return [kind for kind in self.kinds if kind != "is" or extractor.classes]

    def _signed(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x if self.signed else 2 * x - 1


def prior_samples(model: LatentVariableModel, seed: int = 0) -> Draw:
    """Decoded codes of the model's prior; the n-th sample is a function of (seed, n)."""

    def draw(first: int, number: int) -> Tensor:
        device = next(model.decoder.parameters()).device
        z = model.prior().sample((number,), Noise(seed, 3, torch.arange(first, first + number, device=device)))
        return model.decode(model.codebook(z)).mean

    return draw
