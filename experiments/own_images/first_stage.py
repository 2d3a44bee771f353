"""The first stage on a folder of pictures: ``python -m experiments.run experiment=images/first_stage data.root=FOLDER``.

Beside what every run leaves, its folder holds ``first_stage.pt``, the state of the best look, and ``config.json``, from which the second stage builds it
again; ``health.csv``; ``reconstructions.png``, held-out pictures (above), through the codes and back (middle), and as small as the grid of codes and back,
by bicubic interpolation (below); ``whole_NUMBER.png``, held-out pictures in squares.
"""

import hashlib
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from experiments.descent import descent
from experiments.job import Built, Job, Result, budget, plain, procedure
from experiments.making import made
from experiments.own_images.judges import ALEX, VGG, bicubic_measures, judges, numbers
from experiments.own_images.pictures import Squares, pictures
from experiments.parts import stored
from experiments.results import write_json
from experiments.watching.board import Board
from experiments.watching.grids import save, tiles
from experiments.watching.watcher import Shows
from latentcomp import checkpoint, processes
from latentcomp.data.image_folder import ImageFolder
from latentcomp.engine import Engine
from latentcomp.evaluate.budget import Training
from latentcomp.evaluate.fidelity import LEAST, SMALL, bicubic
from latentcomp.evaluate.images import ImageMeasures
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.training import Budget, Looks
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel

STATE, CONFIG = "first_stage.pt", "config.json"
HIGHER = ("psnr", "ssim", "code_usage", "code_perplexity")  # of which more is better


class FirstStage:
    """Model and learner on a folder of pictures, where a run computes.

    Args:
        data: the pictures.
        model: theta.
        learner: phi.
        measures: of reconstructions.
        engine: of the run.
    """

    def __init__(self, data: ImageFolder, model: LatentVariableModel, learner: Learner, measures: ImageMeasures, engine: Engine) -> None:
        self.data, self.model, self.learner, self.measures, self.squares = data, model, learner, measures, Squares(data, engine)
        engine.place(model, learner, [])
        like = next(tensor for tensor in itertools.chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
        for part in (*measures.distances.values(), *measures.extractors):
            part.to(like.device, like.dtype) if isinstance(part, nn.Module) else None

    def look(self, model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        """Reconstructions of all validation squares, and the codes they use."""
        judge = ImageMeasures(self.measures.distances, signed=self.measures.signed)
        return numbers(judge.of_reconstructions(model, learner.posterior, self.squares.held_out("validation")))

    def judged(self) -> dict[str, Measure]:
        """All measures on the test squares, beside bicubic interpolation to as few pixels as there are codes."""
        found = self.measures.of_reconstructions(self.model, self.learner.posterior, self.squares.held_out("test"))
        return found | bicubic_measures(self.squares.held_out("test"), self.stride, self.data.view, self.measures.distances)

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
        x = self.squares.spread(part, number).x
        rows = [x, self.reconstructed(x), bicubic(x, self.stride)]
        return tiles(torch.cat([self.data.view.shown(row) for row in rows]), len(x), enlarge=max(1, 96 // self.data.view.crop))

    def whole(self, part: str, i: int) -> Float[Tensor, "3 h w"]:
        """A picture of a part, square by square, above its reconstruction, square by square: seams and all."""
        side = self.data.view.crop
        image, _ = self.data.pictures[part][i]
        image = image[:, : image.shape[1] // side * side, : image.shape[2] // side * side]
        rows = image.shape[1] // side
        squares = self.squares.engine.placed(self.data.view.pixels(rearrange(image, "c (a h) (b w) -> (a b) c h w", h=side, w=side)))
        made = torch.cat([self.reconstructed(some) for some in squares.split(64)])
        pair = [rearrange(self.data.view.shown(part), "(a b) c h w -> c (a h) (b w)", a=rows).cpu() for part in (squares, made)]
        return tiles(torch.stack(pair), 1)

    def drawn(self, folder: Path) -> None:
        """Writes what the test pictures become."""
        save(self.shown("test"), folder / "reconstructions.png")
        for i in range(min(4, len(self.data.pictures["test"]))):
            save(self.whole("test", i), folder / f"whole_{i}.png")


@procedure
def execute(job: Job) -> Result:
    """Trains, judges on the test pictures, and draws; a run that was stopped goes on."""
    config, folder = job.config, job.folder
    torch.manual_seed(config.seed)
    data = pictures(config.data)
    model, learner = made(config.preset)
    stage = FirstStage(data, model, learner, judges(config.weights, data.view.signed), job.engine)
    _check_watched(config.watched, stage)
    limits, per_epoch = often(config, data)
    board = Board(folder / "health.csv", per_epoch) if folder else None
    shows = Shows(stage.squares.spread("validation", 64).x, lambda: stage.shown("validation"), board)
    built = Built(data, model, learner, descent(config, learner, model), limits)
    training = job.trained(built, Looks(stage.look, config.watched, config.watched in HIGHER, config.patience), shows)
    measures = stage.judged() | critic_measures(training.curve) | {"seconds": Measure(training.seconds, "s")}
    if folder is not None and processes.rank() == 0:
        checkpoint.save(folder / STATE, {"model": model, "learner": learner})
        write_json(folder / CONFIG, plain(config))
        stage.drawn(folder)
    ended(config.watched, training, limits, data)
    shown = stage.squares.spread("test", 8).x
    strips = {"images": shown, "reconstructions": stage.reconstructed(shown), "bicubic": bicubic(shown, stage.stride)}
    drawn = {name: data.view.shown(x).cpu() for name, x in strips.items()}
    return job.records(measures, training.seconds), {"curve": training.curve, "best_step": training.best_step, **drawn}


def _check_watched(name: str, stage: FirstStage) -> None:
    """Refuses a number that no look will have, before anything is learned."""
    if name.startswith("lpips") and name not in stage.measures.distances:
        raise SystemExit(f"error: watched={name} needs weights=FOLDER, the folder of {VGG} and {ALEX}; or watch l1, psnr or ssim")
    if name == "ssim" and stage.data.view.crop < LEAST:
        raise SystemExit(f"error: watched=ssim needs crop={LEAST} or larger: {SMALL}; or watch l1 or psnr")


def often(config: DictConfig, data: ImageFolder) -> tuple[Budget, int]:
    """The budget, with a look an epoch where it says nothing else; and how many batches an epoch has."""
    limits = budget(config)
    per_epoch = data.batches(limits.size, limits.updates).per_epoch
    return limits._replace(every=min(config.budget.every or per_epoch, limits.updates)), per_epoch


def ended(watched: str, training: Training, limits: Budget, data: ImageFolder) -> None:
    """Says whether it ended early, and which pictures were left out."""
    if processes.rank():
        return
    if training.curve[-1]["step"] < limits.updates:
        print(f"{watched} has not become better since step {training.best_step}: the run has ended early, with the state of then")
    if data.report:
        print(data.report)


def critic_measures(curve: list[dict[str, float]]) -> dict[str, Measure]:
    """LPIPS on validation squares at the last look before the generator heard a critic, and at the last look of all; nothing without a critic."""
    heard = [look.get("ramp", 0.0) > 0 for look in curve]
    if not any(heard) or all(heard):
        return {}
    before, after = curve[heard.index(True) - 1], curve[-1]
    names = [name for name in ("lpips", "lpips_alex", "psnr") if name in before]
    found = {f"val_{name}_before_critic": Measure(before[name], "") for name in names}
    return found | {f"val_{name}_with_critic": Measure(after[name], "") for name in names}


class Restored(NamedTuple):
    """A finished first stage, without its pictures.

    Attributes:
        folder: of its run.
        config: of its run.
        model: theta.
        learner: phi.
    """

    folder: Path
    config: DictConfig
    model: LatentVariableModel
    learner: Learner

    @property
    def weights(self) -> str:
        """What tells it from another: the SHA-256 of its file."""
        return hashlib.sha256((self.folder / STATE).read_bytes()).hexdigest()

    @property
    def stride(self) -> int:
        """Pixels a side for each code."""
        return self.config.data.view.crop // math.isqrt(len(self.model.cardinalities))

    def on(self, condition: Any, weights: str | None, engine: Engine) -> FirstStage:
        """It with its pictures.

        Args:
            condition: what its pictures give as c: ``condition`` of an ``ImageFolder``.
            weights: of what it is judged by.
            engine: of the run.
        """
        data = pictures(OmegaConf.create(dict(self.config.data) | {"condition": condition}))
        return FirstStage(data, self.model, self.learner, judges(weights, data.view.signed), engine)


def restored(folder: str | Path | None) -> Restored:
    """A finished first stage, from its folder.

    Raises:
        SystemExit: the folder is not that of a first stage's run.
        RefusedName: its configuration would call what no configuration file of the project does.
    """
    if folder is None or not (Path(folder) / STATE).is_file():
        raise SystemExit(f"error: first={folder} is no folder of a first stage's run: it must hold {STATE}. Run experiment=images/first_stage before")
    config = stored(Path(folder) / CONFIG, "data", "preset")
    model, learner = made(config.preset)
    checkpoint.load(Path(folder) / STATE, {"model": model, "learner": learner})
    return Restored(Path(folder), config, model.eval(), learner.eval())


def loaded(folder: str | None, weights: str | None, engine: Engine) -> FirstStage:
    """A finished first stage with its pictures, from its folder.

    Raises:
        SystemExit: the folder is not that of a first stage's run.
    """
    stage = restored(folder)
    return stage.on(stage.config.data.condition, weights, engine)
