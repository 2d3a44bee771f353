"""The second stage on the codes of a first: ``python -m experiments.run experiment=images/second_stage first=FOLDER``, the folder of a first stage's run.

The frozen posterior encodes squares that are cut anew each epoch, so that the prior sees no picture twice in the same way; the run ends when the validation
pictures' codes become no more probable. Its folder holds ``second_stage.pt``, ``samples.png`` and ``neighbours.png``: samples (left) beside the training
squares that are nearest to them.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.descent import descent
from experiments.job import Built, Job, Result, procedure
from experiments.making import made
from experiments.own_images.finished import CONFIG, STATE, built, check, described, drawing_of
from experiments.own_images.first_stage import FirstStage, ended, often, restored
from experiments.own_images.given import read
from experiments.own_images.judges import numbers
from experiments.own_images.samples import Samples
from experiments.results import write_json
from experiments.watching.board import Board
from experiments.watching.grids import save, tiles
from experiments.watching.watcher import Shows
from latentcomp import checkpoint, processes
from latentcomp.batch import Batch
from latentcomp.evaluate.neighbours import nearest, novelty
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import code_rate
from latentcomp.evaluate.training import Looks
from latentcomp.learners.learner import Learner
from latentcomp.learners.second_stage import SecondStage
from latentcomp.model import LatentVariableModel


class Gallery:
    """What is seen of a second stage's samples.

    Args:
        first: the first stage, with its pictures.
        samples: of the second.
    """

    def __init__(self, first: FirstStage, samples: Samples) -> None:
        self.first, self.samples = first, samples

    def shown(self, number: int = 36) -> Float[Tensor, "3 h w"]:
        """A grid of them."""
        view = self.first.data.view
        return tiles(view.shown(self.samples(0, number)), 12, enlarge=max(1, 96 // view.crop))

    def memory(self, number: int = 12) -> tuple[Float[Tensor, "3 h w"], Measure]:
        """Samples beside their three nearest training squares, mirrored ones too where training mirrors, and how new they are."""
        data, x = self.first.data, self.samples(0, number)
        found = nearest(x, self._training())
        held_out = nearest(self.first.squares.spread("test", number).x, self._training())
        beside = torch.cat([x.unsqueeze(1), found.images], 1)
        return tiles(data.view.shown(beside.flatten(0, 1)), 8, enlarge=max(1, 96 // data.view.crop)), novelty(found, held_out)

    def _training(self) -> Iterator[Batch]:
        for batch in self.first.squares.held_out("train"):
            yield batch
            if self.first.data.view.flip:
                yield batch._replace(x=batch.x.flip(-1))


@procedure
def execute(job: Job) -> Result:
    """Trains the prior, judges it on the test pictures' codes, samples; a run that was stopped goes on."""
    config, folder = job.config, job.folder
    torch.manual_seed(config.seed)
    stage = restored(config.first)
    model, given = built(config, stage)
    first = stage.on(given.condition, config.weights, job.engine)
    given = read(given, first.data)
    learner = SecondStage(first.learner.posterior, made(config.objective))
    gallery = Gallery(first, Samples(model, given, lambda: first.data, first.data.view, config.seed, drawing_of(config.sampling)))
    check(config, model, given)

    def rate(part: str) -> dict[str, Measure]:
        return code_rate(model, learner.posterior, first.squares.held_out(part), seed=config.seed)._asdict()

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        return {f"val_{name}": value for name, value in numbers(rate("validation")).items()}

    limits, per_epoch = often(config, first.data)
    shows = Shows(None, gallery.shown, Board(folder / "health.csv", per_epoch) if folder else None)
    training = job.trained(
        Built(first.data, model, learner, descent(config, learner, model), limits),
        Looks(look, config.watched, patience=config.patience), shows, {"first": stage.weights},
    )  # fmt: skip
    beside, novel = gallery.memory()
    measures = rate("test") | {"novelty": novel, "seconds": Measure(training.seconds, "s")}
    if first.measures.extractors:
        real = [batch.x for batch in first.squares.held_out("test")]
        measures |= first.measures.of_samples(real, gallery.samples, sum(map(len, real)))
    if folder is not None and processes.rank() == 0:
        checkpoint.save(folder / STATE, {"prior": model.prior})
        write_json(folder / CONFIG, described(config, stage, given))
        save(gallery.shown(), folder / "samples.png")
        save(beside, folder / "neighbours.png")
    ended(config.watched, training, limits, first.data)
    drawn = first.data.view.shown(gallery.samples(0, 16)).cpu()
    return job.records(measures, training.seconds), {"curve": training.curve, "best_step": training.best_step, "samples": drawn}
