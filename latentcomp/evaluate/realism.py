"""How near a set of made images is to a set of real ones, in the eyes of an extractor: FID, KID and IS, streamed over batches.

* FID (Heusel et al., 2017): the Frechet distance of two Gaussians with the features' means and covariances, |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). It
  keeps two sums. With few images it is biased upwards; rFID is FID of reconstructions against their own images.
* KID (Binkowski et al., 2018): the squared maximum mean discrepancy under the kernel (f.f'/F + 1)^3, unbiased; the mean over subsets of the features, which
  it keeps. It has no standard error: the subsets overlap, and their spread says how much the choice of subsets matters, not how much other images would.
* IS (Salimans et al., 2016): exp E_x KL(p(y|x) || p(y)) of a classifier's classes y, for made images alone: the mean over ten splits of them, and its
  deviation between splits, as published. p(y) is a split's own, so that few images make it too low. It keeps the logits.

No images are kept. All three are torchmetrics'.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from latentcomp.evaluate.extractors import Extractor
from latentcomp.evaluate.protocol import Measure

KINDS = ("fid", "kid", "is")


class Realism:
    """Distances between real and made images, over as many batches of either as come.

    Args:
        extractor: in whose features; its name stands in the measures' names.
        kinds: which of ``fid``, ``kid`` and ``is``.
        subset: the number of features in each of KID's hundred subsets, at most.
        seed: of the subsets, and of which image is in which split.
        splits: of IS; ten in published tables.

    Raises:
        ValueError: an unknown kind, no split, or IS with an extractor that does not classify.
        ImportError: torchmetrics is not installed.
    """

    def __init__(self, extractor: Extractor, kinds: Sequence[str] = ("fid", "kid"), subset: int = 1000, seed: int = 0, splits: int = 10) -> None:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"there is no distance {', '.join(unknown)} here; known: {', '.join(KINDS)}")
        if splits < 1:
            raise ValueError(f"the inception score is a mean over one split or more, got splits={splits}")
        self.extractor, self.kinds, self.subset, self.seed, self.splits = extractor.frozen(), tuple(kinds), subset, seed, splits
        self.real = self.made = 0
        self.metrics = _metrics(extractor, self.kinds, subset, splits)

    @torch.no_grad()
    def update(self, images: Float[Tensor, "B C H W"], real: bool) -> None:
        """Takes in a batch of images in [-1, 1], cut off there: real ones or made ones."""
        images = images.clamp(-1, 1)
        self.real, self.made = self.real + real * len(images), self.made + (not real) * len(images)
        features = self.extractor(images) if {"fid", "kid"} & set(self.kinds) else images
        for kind in {"fid", "kid"} & set(self.kinds):
            self.metrics[kind].update(features, real=real)
        if not real and "is" in self.kinds:
            self.metrics["is"].update(self.extractor.logits(images))

    def measures(self, prefix: str = "") -> dict[str, Measure]:
        """``fid_NAME``, ``kid_NAME``, ``is_NAME`` and ``is_deviation_NAME`` of this extractor, after ``prefix``; a number from too few images says so.

        Raises:
            ValueError: fewer than two images of either set, or fewer made ones than splits.
        """
        if self.made < 2 or (self.real < 2 and set(self.kinds) != {"is"}):
            raise ValueError(f"a distance between sets needs at least two images of each, got {self.real} real and {self.made} made ones")
        if "is" in self.kinds and self.made < self.splits:
            few = f"the inception score is a mean over {self.splits} splits, and {self.made} images were made"
            raise ValueError(f"{few}: make more, or pass splits={self.made}")
        found = {name: measure for kind in self.kinds for name, measure in getattr(self, f"_{kind}")().items()}
        return {f"{prefix}{kind}_{self.extractor.name}": measure for kind, measure in found.items()}

    def _fid(self) -> dict[str, Measure]:
        few, width = min(self.real, self.made), self.extractor.num_features
        reason = None if few > width else f"flagged: of {few} images, {width} features have singular covariances, and the distance is too high"
        return {"fid": Measure(max(0.0, float(self.metrics["fid"].compute())), "", None, reason)}

    def _kid(self) -> dict[str, Measure]:
        metric = self.metrics["kid"]
        metric.subset_size = min(self.subset, self.real, self.made)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            mean, _ = metric.compute()  # the deviation is that of overlapping subsets
        return {"kid": Measure(float(mean), "")}

    def _is(self) -> dict[str, Measure]:
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore", UserWarning)  # one split has no deviation
            torch.manual_seed(self.seed)
            mean, deviation = self.metrics["is"].compute()
        each, classes = self.made // self.splits, self.extractor.classes
        reason = None if each >= classes else f"flagged: {each} images a split cannot show {classes} classes, and the score is too low"
        found = {"is": Measure(float(mean), "", None, reason)}
        return found | ({"is_deviation": Measure(float(deviation), "")} if self.splits > 1 else {})


class _Features(nn.Module):
    """Passes on features that were extracted once for all metrics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """The features, in double precision."""
        return features.double()


def _metrics(extractor: Extractor, kinds: Sequence[str], subset: int, splits: int) -> dict[str, Any]:
    """The metrics of torchmetrics by kind."""
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.inception import InceptionScore
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise ImportError("FID, KID and IS need the package torchmetrics: python -m pip install 'latentcomp[images]'") from error
    if "is" in kinds and not extractor.classes:
        raise ValueError(
            f"the inception score wants an extractor that classifies, and {extractor.name} gives features only: use Inception, or Own with logits="
        )
    features, device = _Features(extractor.num_features), next(iter(extractor.state_dict().values()), torch.empty(0)).device
    made = {
        "fid": lambda: FrechetInceptionDistance(features).set_dtype(torch.float64),
        "kid": lambda: KernelInceptionDistance(features, subset_size=subset),
        "is": lambda: InceptionScore(_Features(extractor.classes), splits=splits),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that features are kept, as the module's docstring says
        return {kind: made[kind]().to(device) for kind in kinds}
