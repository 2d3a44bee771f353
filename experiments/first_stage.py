"""A first stage on small colour images: a VQGAN preset, or GFlowNet-EM on the same model. Reconstruction and use of the codes, no likelihoods.

An energy has no NLL, so what is watched and reported here is what every row has: how far reconstructions of held-out images are from them, and how many
codes they use. The state that is judged is the last, by its weight average where there is one.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from experiments import figures
from experiments.cells import Spec
from experiments.descent import descent
from experiments.execute import Progress, plain
from experiments.report import Picture
from latentcomp import checkpoint, digits
from latentcomp.data.split import Split
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.evaluate.usage import usage
from latentcomp.nn.lpips import LPIPS
from latentcomp.taming.presets import Preset
from latentcomp.train import fit


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


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, folder: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains the preset of a row, and measures its reconstructions of test images."""
    torch.manual_seed(config.seed)
    data, preset = instantiate(config.data), instantiate(config.preset)
    model, learner = preset
    learner.seed = config.seed
    descending = descent(config, learner, model)
    average, size = WeightAverage(descending.average, model, learner), config.budget.size
    curve, start, looking = [], time.perf_counter(), 0.0
    for step, metrics in enumerate(fit(model.train(), learner.train(), data.batches(size, config.batches, config.seed), descending.optimizer), 1):
        if descending.scheduler is not None:
            descending.scheduler.step()
        average.update()
        if step % config.budget.every and step != config.batches:
            continue
        look = time.perf_counter()
        l1 = judged(preset, average, lambda: _l1(data.validation, reconstructions(preset, data.validation, size)[0]).mean())
        curve.append({"step": step, "val_nll": float(l1), "seconds": look - start - looking} | {key: float(value) for key, value in metrics.items()})
        if folder is not None:
            checkpoint.save(folder / "last.pt", {"model": model, "learner": learner, "optimizer": descending.optimizer})
        progress(step)
        looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    measures, shown = judged(preset, average, lambda: _measures(preset, distance(instantiate(config.budget.distance)), data.test, size))
    measures |= {name: Measure(curve[-1][name], "") for name in ("lambda", "critic_real", "critic_made") if name in curve[-1]}
    measures |= {"decoder_evaluations": Measure(model.decoder_evaluations, "images"), "seconds": Measure(seconds, "s")}
    common = {"seconds": seconds, "source": config.source, "config": plain(config)}
    records = [{"row": row, "seed": config.seed, "metric": k, "expected": config.expected.get(k)} | m._asdict() | common for k, m in measures.items()]
    return records, {"curve": curve, "best_step": config.batches} | shown


def judged(preset: Preset, average: WeightAverage, what: Callable[[], Any]) -> Any:
    """What a function gives with the averaged weights, in evaluation mode, without a gradient."""
    evaluations = preset.model.decoder_evaluations
    for part in preset:
        part.eval()
    with torch.no_grad(), average.applied():
        result = what()
    for part in preset:
        part.train()
    preset.model.decoder_evaluations = evaluations
    return result


def reconstructions(preset: Preset, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean images of the posterior's most probable codes, and these codes ``(n, N)``."""
    model, learner = preset
    codes = torch.cat([learner.posterior(model, part).mode for part in x.split(size)])
    return torch.cat([model.decode(model.codebook(part)).mean for part in codes.split(size)]), codes


def _l1(x: Tensor, x_hat: Tensor) -> Tensor:
    return (x - x_hat).abs().mean((-3, -2, -1))


def distance(given: nn.Module | str | None) -> nn.Module:
    """What every row is judged by: LPIPS on VGG weights from a file, or downloaded for None; or the module given."""
    return given if isinstance(given, nn.Module) else LPIPS(given)


def _measures(preset: Preset, distance: nn.Module, x: Tensor, size: int) -> tuple[dict[str, Measure], dict[str, Any]]:
    x_hat, codes = reconstructions(preset, x, size)
    squares = (x - x_hat.clamp(-1, 1)).square().mean((-3, -2, -1))
    used = usage(codes, preset.model.codebook.codes)
    measures = {
        "l1": mean(_l1(x, x_hat), ""),
        "distance": mean(torch.cat([distance(a, b) for a, b in zip(x.split(size), x_hat.split(size), strict=True)]), ""),
        "psnr": mean(10 * (4 / squares).log10(), "dB"),
        "used": Measure(used.used, ""),
        "perplexity": Measure(used.perplexity, "codes"),
    }
    return measures, {"images": x[:8].clone() / 2 + 0.5, "reconstructions": x_hat[:8].clone() / 2 + 0.5, "usage": used.counts}


def pictures(runs: figures.Runs, spec: Spec) -> list[Picture]:
    """What the report shows."""
    return [
        Picture("Reconstructions", "Test images, and the mean image at the posterior's most probable code.", figures.reconstructions(runs, spec)),
        Picture("Code usage", "How often the posterior takes each code on the test images; the dashed line is even use.", figures.usage(runs, spec)),
    ]
