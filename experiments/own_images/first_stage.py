"""The first stage on a folder of pictures: ``python -m experiments.run experiment=images/first_stage data.root=FOLDER``.

Beside what every run leaves, its folder holds ``first_stage.pt``, the state of the best look, and ``config.json``, from which the second stage builds it
again; ``health.csv``; ``reconstructions.png``, held-out pictures (above), through the codes and back (middle), and as small as the grid of codes and back,
by bicubic interpolation (below); ``whole_NUMBER.png``, held-out pictures in squares.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from experiments.descent import descent
from experiments.execute import Progress
from experiments.own_images.board import grid
from experiments.own_images.judges import ALEX, VGG, bicubic_measures, judges
from experiments.own_images.run import Run, folder_of, made, numbers, pictures, records
from experiments.own_images.states import Averaged, device
from latentcomp import checkpoint
from latentcomp.batch import Batch
from latentcomp.checkpoint import Stateful
from latentcomp.data.image_folder import ImageFolder
from latentcomp.data.squares import SquareBatches
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.fidelity import bicubic
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.train import fit

STATE = "first_stage.pt"


class FirstStage:
    """Model and learner on a folder of pictures.

    Args:
        data: the pictures.
        model: theta.
        learner: phi.
        measures: of reconstructions.
    """

    def __init__(self, data: ImageFolder, model: LatentVariableModel, learner: Learner, measures: ImageMeasures) -> None:
        self.data, self.measures, self.device = data, measures, device()
        self.model, self.learner = model.to(self.device), learner.to(self.device)
        for module in (*measures.distances.values(), *measures.extractors):
            module.to(self.device) if isinstance(module, torch.nn.Module) else None

    def placed(self, batch: Batch) -> Batch:
        """A batch where the model is."""
        return Batch(batch.x.to(self.device), *(None if field is None else field.to(self.device) for field in batch[1:]))

    def mode(self, training: bool) -> None:
        """Puts the networks into or out of training mode."""
        self.model.train(training)
        self.learner.train(training)

    def look(self) -> dict[str, float]:
        """Reconstructions of all validation squares, and the codes they use."""
        judge = ImageMeasures(self.measures.distances, signed=self.measures.signed)
        return numbers(judge.of_reconstructions(self.model, self.learner.posterior, map(self.placed, self.data.held_out("validation"))))

    def judged(self) -> dict[str, Measure]:
        """All measures on the test squares, beside bicubic interpolation to as few pixels as there are codes."""
        found = self.measures.of_reconstructions(self.model, self.learner.posterior, map(self.placed, self.data.held_out("test")))
        return found | bicubic_measures(map(self.placed, self.data.held_out("test")), self.stride, self.data.view, self.measures.distances)

    @property
    def stride(self) -> int:
        """Pixels a side for each code."""
        return round(self.data.view.crop / math.sqrt(len(self.model.cardinalities)))

    @torch.no_grad()
    def reconstructed(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Images through their most probable codes and back."""
        return self.model.decode(self.model.codebook(self.learner.posterior(self.model, x).mode)).mean

    def shown(self, part: str, number: int = 12) -> Float[Tensor, "3 h w"]:
        """Squares of a part, spread over its pictures, above their reconstructions, above bicubic interpolation."""
        x = self.placed(spread(self.data, part, number)).x
        rows = [x, self.reconstructed(x), bicubic(x, self.stride)]
        return grid(torch.cat([self.data.view.shown(row) for row in rows]), len(x), enlarge=max(1, 96 // self.data.view.crop))

    def whole(self, part: str, i: int) -> Float[Tensor, "3 h w"]:
        """A picture of a part, square by square, above its reconstruction, square by square: seams and all."""
        side = self.data.view.crop
        image, _ = self.data.pictures[part][i]
        image = image[:, : image.shape[1] // side * side, : image.shape[2] // side * side]
        rows = image.shape[1] // side
        squares = self.data.view.pixels(rearrange(image, "c (a h) (b w) -> (a b) c h w", h=side, w=side)).to(self.device)
        made = torch.cat([self.reconstructed(some) for some in squares.split(64)])
        pair = [rearrange(self.data.view.shown(part), "(a b) c h w -> c (a h) (b w)", a=rows).cpu() for part in (squares, made)]
        return grid(torch.stack(pair), 1)


def spread(data: ImageFolder, part: str, number: int) -> Batch:
    """So many squares of a part that never change, from as many of its pictures as possible."""
    members = data.pictures[part]
    examples = len(members) * data.view.crops
    index = torch.linspace(0, examples - 1, min(number, examples)).long()
    return next(SquareBatches.fixed(members, index))


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, place: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains, judges on the test pictures, and draws; a run that was killed goes on."""
    folder = folder_of(config, place)
    torch.manual_seed(config.seed)
    data = pictures(config.data)
    model, learner = made(config.preset)
    stage = FirstStage(data, model, learner, judges(config.weights, data.view.signed))
    if config.watched.startswith("lpips") and config.watched not in stage.measures.distances:
        raise SystemExit(f"error: watched={config.watched} needs weights=FOLDER, the folder of {VGG} and {ALEX}; or watch l1, psnr or ssim")
    learner.seed = config.seed
    descending, average = descent(config, learner, model), WeightAverage(config.average, model, learner)
    batches = data.batches(config.budget.size, config.budget.updates, config.seed)
    parts: dict[str, Stateful] = {"model": model, "learner": learner, "optimizer": descending.optimizer, "average": Averaged(average)}
    parts |= {} if descending.scheduler is None else {"scheduler": descending.scheduler}
    run = Run(config, folder, batches.per_epoch, parts)

    def updates() -> Iterator[dict[str, Tensor]]:
        for metrics in fit(model, learner, map(stage.placed, batches.after(run.state.step)), descending.optimizer):
            if descending.scheduler is not None:
                descending.scheduler.step()
            average.update()
            yield metrics

    def look() -> dict[str, float]:
        stage.mode(False)
        with average.applied():
            found = stage.look()
            run.board.picture("reconstructions", stage.shown("validation"), run.state.step)
        stage.mode(True)
        return found

    def keep() -> None:
        with average.applied():
            checkpoint.save(folder / STATE, {"model": model, "learner": learner})

    stage.mode(True)
    run.go(updates(), look, keep, progress)
    checkpoint.load(folder / STATE, {"model": model, "learner": learner})
    stage.mode(False)
    measures = stage.judged() | critic_measures(run.curve) | {"seconds": Measure(run.state.seconds, "s")}
    run.board.picture("reconstructions", stage.shown("test"), run.state.step)
    for i in range(min(4, len(data.pictures["test"]))):
        run.board.picture(f"whole_{i}", stage.whole("test", i), run.state.step)
    run.ended(data)
    shown = spread(data, "test", 8).x
    drawn = {"images": data.view.shown(shown), "reconstructions": data.view.shown(stage.reconstructed(shown.to(stage.device))).cpu()}
    return records(config, row, measures, run.state.seconds), {"curve": run.curve, "best_step": run.best()["step"], **drawn}


def critic_measures(curve: list[dict[str, float]]) -> dict[str, Measure]:
    """LPIPS on validation squares at the last look before the generator heard a critic, and at the last look of all; nothing without a critic."""
    heard = [look.get("ramp", 0.0) > 0 for look in curve]
    if not any(heard) or all(heard):
        return {}
    before, after = curve[heard.index(True) - 1], curve[-1]
    names = [name for name in ("lpips", "lpips_alex", "psnr") if name in before]
    found = {f"val_{name}_before_critic": Measure(before[name], "") for name in names}
    return found | {f"val_{name}_with_critic": Measure(after[name], "") for name in names}
