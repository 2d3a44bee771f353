"""The measures of image rows, against a model whose reconstructions are known, and as columns of ``compare``."""

import pytest
import torch
from torch import nn

from latentcomp import Budget, Codebook, LatentVariableModel, compare, digits
from latentcomp.batch import Batch
from latentcomp.data import Split
from latentcomp.evaluate.extractors import Own
from latentcomp.evaluate.images import ImageMeasures, prior_samples
from latentcomp.learners.straight_through import StraightThrough
from latentcomp.likelihoods import Bernoulli, Gaussian
from latentcomp.nn import ImageDecoder, ImageTrunk, SiteHead
from latentcomp.posteriors import NearestCode
from latentcomp.priors import Uniform

SIDE = 8


class Corners(nn.Module):
    """Four pixels."""

    def forward(self, x):
        return x[:, 0, ::7, ::7].flatten(1)


class Shades(nn.Module):
    """Embeddings ``(B, N, 1)`` to images of N stripes, each as bright as its embedding."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, e):
        return (e[..., 0] + self.anchor).repeat_interleave(SIDE // e.shape[1], 1)[:, None, :, None].expand(-1, 1, SIDE, SIDE)


class Stripes(nn.Module):
    """Images to the mean of each of four stripes."""

    def forward(self, x):
        return x.view(len(x), 4, -1).mean(-1, keepdim=True)


def stripes():
    """A model that quantises four stripes to the shades -1, 0 and 1."""
    model = LatentVariableModel(Uniform(4, 3), Codebook(3, 1), Shades(), Gaussian(0.1))
    model.codebook.weight.data = torch.tensor([[-1.0], [0.0], [1.0]])
    return model, StraightThrough(NearestCode(Stripes()))


def test_measures_are_those_of_the_reconstructions():
    model, learner = stripes()
    z = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1], [1, 0, 1, 1], [0, 1, 1, 1]])
    clean = model.decode(model.codebook(z)).mean
    x = (clean + 0.2).clamp(-1, 1).detach()
    measures = ImageMeasures({"lpips": lambda a, b: (a - b).square().mean((1, 2, 3))}, [Own("corners", Corners(), 4)], signed=True, size=4)
    found = measures.of_reconstructions(model, learner.posterior, (Batch(part, index=None) for part in x.split(4)))
    assert found["psnr"].value == pytest.approx(10 * torch.log10(4 / torch.tensor(0.04)).item(), abs=1e-4)
    assert found["lpips"].value == pytest.approx(0.04, abs=1e-6)
    assert found["l1"].value == pytest.approx(0.2, abs=1e-6)
    assert found["code_usage"].value == pytest.approx(2 / 3)
    share = torch.stack([(z == k).double().mean() for k in (0, 1)])
    assert found["code_perplexity"].value == pytest.approx(float((-(share * share.log()).sum()).exp()))
    assert found["rfid_corners"].value == pytest.approx(4 * 0.2**2, abs=1e-4)  # the same features, each moved by 0.2


def test_unsigned_images_are_brought_to_the_same_units():
    model, learner = stripes()
    x = torch.full((4, 1, SIDE, SIDE), 0.4)
    found = ImageMeasures(signed=False).of_reconstructions(model, learner.posterior, [Batch(x)])
    assert found["l1"].value == pytest.approx(0.8, abs=1e-6)  # 0.4 against the shade 0, twice as far in [-1, 1]


def test_samples_of_the_right_model_are_near_and_those_of_another_are_not():
    model, _ = stripes()
    real = torch.cat([prior_samples(model, seed=1)(0, 400)])
    measures = ImageMeasures(extractors=[Own("corners", Corners(), 4)], size=64)
    near = measures.of_samples(real.split(100), prior_samples(model), 400)
    far = measures.of_samples(real.split(100), lambda first, n: torch.ones(n, 1, SIDE, SIDE), 400)
    assert near["fid_corners"].value < 0.1 < 2 < far["fid_corners"].value
    assert near["kid_corners"].value < far["kid_corners"].value
    draw = prior_samples(model)
    assert torch.equal(draw(0, 10)[3:7], draw(3, 4)), "a sample is a function of (seed, number)"


@pytest.mark.usefixtures("unchecked")
def test_they_are_columns_of_compare():
    small = Split(*(part[:60] for part in digits()[:3]))
    model = lambda: LatentVariableModel(Uniform(4, 4), Codebook(4, 4), ImageDecoder(4, 4, (16,), (1, 8, 8)), Bernoulli())  # noqa: E731
    learner = lambda: StraightThrough(NearestCode(nn.Sequential(ImageTrunk((1, 8, 8), (16,)), SiteHead(16, 4, 4))))  # noqa: E731
    also = ImageMeasures(extractors=[Own("corners", Corners(), 4)], signed=False)
    table = compare(model, {"VQ": learner}, small, seeds=1, budget=Budget(updates=2, size=10, every=1, prior_updates=2), also=also)
    assert {"psnr", "ssim", "rfid_corners", "fid_corners", "code_usage"} <= {record["metric"] for record in table.records}
    assert "psnr" in str(table)
    assert "rfid_corners" in str(table)
