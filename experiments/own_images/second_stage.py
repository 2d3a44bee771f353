"""The second stage on the codes of a first: ``python -m experiments.run experiment=images/second_stage first=FOLDER``, the folder of a first stage's run.

The frozen posterior encodes squares that are cut anew each epoch, so that the prior sees no picture twice in the same way; the run ends when the validation
pictures' codes become no more probable. Its folder holds ``second_stage.pt``, ``samples.png`` and ``neighbours.png``: samples (left) beside the training
squares that are nearest to them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.descent import descent
from experiments.job import Built, Job, Result, procedure
from experiments.own_images.first_stage import STATE as FIRST
from experiments.own_images.first_stage import FirstStage, ended, loaded, often
from experiments.own_images.judges import numbers
from experiments.own_images.pictures import made
from experiments.watching.board import Board
from experiments.watching.grids import save, tiles
from experiments.watching.watcher import Shows
from latentcomp import checkpoint, processes
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.evaluate.neighbours import nearest, novelty
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import code_rate
from latentcomp.evaluate.training import Looks
from latentcomp.learners.learner import Learner
from latentcomp.learners.second_stage import SecondStage, second_stage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive

STATE = "second_stage.pt"


class Samples:
    """Pictures of a second stage's prior.

    Args:
        first: the first stage.
        model: the same under the prior p(z) or p(z|class).
        seed: of samples.
        sampling: temperature, top_k and top_p of samples; nothing else knows of them.
    """

    def __init__(self, first: FirstStage, model: LatentVariableModel, seed: int, sampling: Mapping[str, Any]) -> None:
        self.first, self.model, self.seed, self.sampling = first, model, seed, sampling

    @torch.no_grad()
    def __call__(self, first: int, number: int) -> Float[Tensor, "n C H W"]:
        """Samples number ``first`` and on, each a function of (seed, its number); the classes take turns."""
        device = next(self.model.decoder.parameters()).device
        index, classes = torch.arange(first, first + number, device=device), len(self.first.data.classes)
        noise = Noise(self.seed, -1, index)
        z = self._codes(index % classes).sample((), noise) if classes else self._codes(None).sample((number,), noise)
        return self.model.decode(self.model.codebook(z)).mean

    def _codes(self, c: Tensor | None) -> CodeDistribution:
        """p(z|c), as samples are drawn from it.

        Raises:
            SystemExit: it cannot be cut.
        """
        prior = self.model.prior
        if dict(self.sampling) == {"temperature": 1.0, "top_k": None, "top_p": None}:
            return prior(c)
        if not isinstance(prior, Autoregressive):
            raise SystemExit(f"error: {type(prior).__name__} draws in its own way: leave sampling.temperature, top_k and top_p as they are")
        context = None if c is None or prior.condition is None else prior.condition(c)
        return TruncatedCodes(prior.network, context, **self.sampling)

    def shown(self, number: int = 36) -> Float[Tensor, "3 h w"]:
        """A grid of them."""
        view = self.first.data.view
        return tiles(view.shown(self(0, number)), 12, enlarge=max(1, 96 // view.crop))

    def memory(self, number: int = 12) -> tuple[Float[Tensor, "3 h w"], Measure]:
        """Samples beside their three nearest training squares, mirrored ones too where training mirrors, and how new they are."""
        data, x = self.first.data, self(0, number)
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
    first = loaded(config.first, config.weights, job.engine)
    model = second_stage(first.model, made(config.second)(first.model.cardinalities, len(first.data.classes)))
    learner = SecondStage(first.learner.posterior, made(config.objective))
    samples = Samples(first, model, config.seed, config.sampling)

    def rate(part: str) -> dict[str, Measure]:
        return code_rate(model, learner.posterior, first.squares.held_out(part), seed=config.seed)._asdict()

    def look(model: LatentVariableModel, learner: Learner) -> dict[str, float]:
        return {f"val_{name}": value for name, value in numbers(rate("validation")).items()}

    limits, per_epoch = often(config, first.data)
    shows = Shows(None, samples.shown, Board(folder / "health.csv", per_epoch) if folder else None)
    built = Built(first.data, model, learner, descent(config, learner, model), limits)
    about = {"first": hashlib.sha256((Path(config.first) / FIRST).read_bytes()).hexdigest()}
    training = job.trained(built, Looks(look, config.watched, patience=config.patience), shows, about)
    beside, novel = samples.memory()
    measures = rate("test") | {"novelty": novel, "seconds": Measure(training.seconds, "s")}
    if first.measures.extractors:
        real = [batch.x for batch in first.squares.held_out("test")]
        measures |= first.measures.of_samples(real, samples, sum(map(len, real)))
    if folder is not None and processes.rank() == 0:
        checkpoint.save(folder / STATE, {"prior": model.prior})
        save(samples.shown(), folder / "samples.png")
        save(beside, folder / "neighbours.png")
    ended(config.watched, training, limits, first.data)
    drawn = first.data.view.shown(samples(0, 16)).cpu()
    return job.records(measures, training.seconds), {"curve": training.curve, "best_step": training.best_step, "samples": drawn}
