"""A first stage on small colour images: a VQGAN preset, or GFlowNet-EM on the same model. Reconstruction and use of the codes, no likelihoods.

An energy has no NLL, so what is watched and reported here is what every row has: how far reconstructions of held-out images are from them, and how many
codes they use. The state that is judged is the last, by its weight average where there is one.
"""

import math

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from experiments import figures
from experiments.cells import Spec
from experiments.descent import descent
from experiments.job import Built, Job, Result, budget, procedure
from experiments.machine import on_device
from experiments.making import made
from experiments.report import Picture
from experiments.watching.grids import grid
from experiments.watching.watcher import Shows
from latentcomp import digits
from latentcomp.data.split import Split
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import Looks
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.nn.lpips import LPIPS


class Thumbnails(nn.Module):
    """The mean squared difference of 4x4 means: stands for LPIPS where a row only has to run, since VGG's weights are a download of 528 MB."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """One number for each y ``(*S, B, C, H, W)``, from its x ``(B, C, H, W)``."""
        small = [avg_pool2d(t.reshape(-1, *t.shape[-3:]), 4).unflatten(0, t.shape[:-3]) for t in (x, y)]
        return (small[0] - small[1]).square().mean((-3, -2, -1))


def enlarged_digits(fold: int = 0, side: int = 32, train: int = 1300, test: int = 297) -> Split:
    """The 8x8 digits at ``side`` pixels, smoothed, in three equal colours in [-1, 1]: the first ``train`` and ``test`` of them."""
    data = digits(fold)
    parts = [_enlarged(part, side) for part in (data.train[:train], data.validation[:test], data.test[:test])]
    return Split(*parts)


def _enlarged(x: Tensor, side: int) -> Tensor:
    return 2 * interpolate(x, size=(side, side), mode="bilinear").expand(-1, 3, -1, -1).contiguous() - 1


@procedure
def execute(job: Job) -> Result:
    """Trains the preset of a row, and measures its reconstructions of test images."""
    config = job.config
    torch.manual_seed(config.seed)
    data = on_device(instantiate(config.data), job.fabric)
    model, learner = made(config.preset)
    judge = ImageMeasures({"distance": _beside(judging(config), data)}, size=config.budget.size)
    images = data.validation[:8]

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        l1 = ImageMeasures(size=config.budget.size).of_images(model, learner.posterior, data.validation)["l1"].value
        return {"val_nll": math.nan if l1 is None else l1}

    shows = Shows(data.validation[:64], lambda: grid(model, learner, images) / 2 + 0.5)
    training = job.trained(Built(data, model, learner, descent(config, learner, model), budget(config)), Looks(look, watched=None), shows)
    measures = judge.of_images(model, learner.posterior, data.test)
    measures |= {name: Measure(training.curve[-1][name], "") for name in ("lambda", "critic_real", "critic_made") if name in training.curve[-1]}
    measures |= {"decoder_evaluations": Measure(training.decoder_evaluations, "images"), "seconds": Measure(training.seconds, "s")}
    measures |= job.also(model, learner, data)
    shown = {"curve": training.curve, "best_step": training.best_step} | _shown(model, learner, data.test, config.budget.size)
    return job.records(measures, training.seconds), shown


def distance(given: nn.Module | str | None) -> nn.Module:
    """What every row is judged by: LPIPS on VGG weights from a file, or downloaded for None; or the module given."""
    return given if isinstance(given, nn.Module) else LPIPS(given)


def judging(config: DictConfig) -> nn.Module:
    """The distance of a run's budget: a path and None are no nodes that can be instantiated by themselves."""
    judge: nn.Module = made({"_target_": f"{__name__}.distance", "given": config.budget.distance})
    return judge


def _beside(distance: nn.Module, data: Split) -> nn.Module:
    return distance.to(data.test.device, data.test.dtype)


@torch.no_grad()
def _shown(model: LatentVariableModel, learner: Learner, x: Tensor, size: int) -> dict[str, Tensor]:
    codes = torch.cat([learner.posterior(model, part).mode for part in x.split(size)])
    x_hat = model.decode(model.codebook(codes[:8])).mean
    return {"images": x[:8].clone() / 2 + 0.5, "reconstructions": x_hat / 2 + 0.5, "usage": usage(codes, model.codebook.codes).counts}


def pictures(runs: figures.Runs, spec: Spec) -> list[Picture]:
    """What the report shows."""
    return [
        Picture("Reconstructions", "Test images, and the mean image at the posterior's most probable code.", figures.reconstructions(runs, spec)),
        Picture("Code usage", "How often the posterior takes each code on the test images; the dashed line is even use.", figures.usage(runs, spec)),
    ]
