"""The second stage on the codes of a first: ``python -m experiments.run experiment=images/second_stage first=FOLDER``, the folder of a first stage's run.

The frozen posterior encodes squares that are cut anew each epoch, so that the prior sees no picture twice in the same way; the run ends when the validation
pictures' codes become no more probable. Its folder holds ``second_stage.pt``, ``samples.png`` and ``neighbours.png``: samples (left) beside the training
squares that are nearest to them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.execute import Progress
from experiments.own_images.board import grid
from experiments.own_images.first_stage import STATE as FIRST
from experiments.own_images.first_stage import FirstStage, spread
from experiments.own_images.judges import judges
from experiments.own_images.run import CONFIG, Run, folder_of, made, numbers, pictures, records
from latentcomp import checkpoint
from latentcomp.batch import Batch
from latentcomp.codes.distribution import CodeDistribution
from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.evaluate.fitting import with_prior
from latentcomp.evaluate.neighbours import nearest, novelty
from latentcomp.evaluate.protocol import Measure
from latentcomp.evaluate.rates import code_rate
from latentcomp.noise import Noise
from latentcomp.objectives import m_step_loss
from latentcomp.priors import Autoregressive, Prior

STATE = "second_stage.pt"


class SecondStage:
    """A prior on the codes of a frozen first stage.

    Args:
        first: the first stage.
        prior: p(z) or p(z|class).
        seed: of codes and samples.
        sampling: temperature, top_k and top_p of samples; nothing else knows of them.
    """

    def __init__(self, first: FirstStage, prior: Prior, seed: int, sampling: Mapping[str, Any]) -> None:
        self.first, self.prior, self.seed, self.sampling = first, prior.to(first.device), seed, sampling
        first.mode(False)
        for module in (first.model, first.learner):
            module.requires_grad_(False)
        self.model = with_prior(first.model, self.prior)

    @torch.no_grad()
    def codes(self, batch: Batch, step: int) -> Int[Tensor, "B N"]:
        """A draw of the posterior's codes."""
        return self.first.learner.posterior(self.first.model, batch.x).sample((), Noise(self.seed, step, batch.positions))

    def updates(self, batches: Iterator[Batch], optimizer: torch.optim.Optimizer, step: int) -> Iterator[dict[str, Tensor]]:
        """Descends -log p(z|c), and yields the nats a token."""
        self.prior.train()
        for number, batch in enumerate(map(self.first.placed, batches), step):
            optimizer.zero_grad(set_to_none=True)
            loss = m_step_loss(self.prior(batch.c).log_prob(self.codes(batch, number)))
            loss.backward()
            optimizer.step()
            yield {"train_nats_per_token": loss.detach() / len(self.model.cardinalities)}

    def rate(self, part: str) -> dict[str, Measure]:
        """What the codes of a part cost."""
        batches = map(self.first.placed, self.first.data.held_out(part))
        self.prior.eval()
        found = code_rate(self.first.model, self.first.learner.posterior, batches, self.prior, self.seed)
        self.prior.train()
        return found._asdict()

    @torch.no_grad()
    def samples(self, first: int, number: int) -> Float[Tensor, "n C H W"]:
        """Samples number ``first`` and on, each a function of (seed, its number); the classes take turns."""
        index, classes = torch.arange(first, first + number, device=self.first.device), len(self.first.data.classes)
        noise, self.prior = Noise(self.seed, -1, index), self.prior.eval()
        z = self._codes(index % classes).sample((), noise) if classes else self._codes(None).sample((number,), noise)
        return self.model.decode(self.model.codebook(z)).mean

    def _codes(self, c: Tensor | None) -> CodeDistribution:
        """p(z|c), as samples are drawn from it."""
        if dict(self.sampling) == {"temperature": 1.0, "top_k": None, "top_p": None}:
            return self.prior(c)
        if not isinstance(self.prior, Autoregressive):
            raise SystemExit(f"error: {type(self.prior).__name__} draws in its own way: leave sampling.temperature, top_k and top_p as they are")
        context = None if c is None or self.prior.condition is None else self.prior.condition(c)
        return TruncatedCodes(self.prior.network, context, **self.sampling)

    def shown(self, number: int = 36) -> Float[Tensor, "3 h w"]:
        """A grid of samples."""
        view = self.first.data.view
        return grid(view.shown(self.samples(0, number)), 12, enlarge=max(1, 96 // view.crop))

    def memory(self, number: int = 12) -> tuple[Float[Tensor, "3 h w"], Measure]:
        """Samples beside their three nearest training squares, mirrored ones too where training mirrors, and how new they are."""
        data, x = self.first.data, self.samples(0, number)
        found = nearest(x, self._training())
        held_out = nearest(self.first.placed(spread(data, "test", number)).x, self._training())
        beside = torch.cat([x.unsqueeze(1), found.images], 1)
        return grid(data.view.shown(beside.flatten(0, 1)), 8, enlarge=max(1, 96 // data.view.crop)), novelty(found, held_out)

    def _training(self) -> Iterator[Batch]:
        for batch in map(self.first.placed, self.first.data.held_out("train")):
            yield batch
            if self.first.data.view.flip:
                yield batch._replace(x=batch.x.flip(-1))


def first_stage(folder: str | None, weights: str | None) -> FirstStage:
    """A finished first stage, from its folder.

    Raises:
        SystemExit: the folder is not that of a first stage's run.
    """
    if folder is None or not (Path(folder) / FIRST).is_file():
        raise SystemExit(f"error: first={folder} is no folder of a first stage's run: it must hold {FIRST}. Run experiment=images/first_stage before")
    config = OmegaConf.create(json.loads((Path(folder) / CONFIG).read_text()))
    data, (model, learner) = pictures(config.data), made(config.preset)
    checkpoint.load(Path(folder) / FIRST, {"model": model, "learner": learner})
    return FirstStage(data, model, learner, judges(weights, data.view.signed))


def execute(config: DictConfig, row: str, progress: Progress = lambda step: None, place: Path | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Trains the prior, judges it on the test pictures' codes, samples; a run that was killed goes on."""
    folder = folder_of(config, place)
    torch.manual_seed(config.seed)
    first = first_stage(config.first, config.weights)
    prior = made(config.second)(first.model.cardinalities, len(first.data.classes))
    stage = SecondStage(first, prior, config.seed, config.sampling)
    optimizer = made(config.optimizer)(prior.parameters())
    batches = first.data.batches(config.budget.size, config.budget.updates, config.seed)
    run = Run(config, folder, batches.per_epoch, {"prior": prior, "optimizer": optimizer})

    def look() -> dict[str, float]:
        run.board.picture("samples", stage.shown(), run.state.step)
        return {f"val_{name}": value for name, value in numbers(stage.rate("validation")).items()}

    updates = stage.updates(iter(batches.after(run.state.step)), optimizer, run.state.step)
    run.go(updates, look, lambda: checkpoint.save(folder / STATE, {"prior": prior}), progress)
    checkpoint.load(folder / STATE, {"prior": prior})
    beside, novel = stage.memory()
    run.board.picture("samples", stage.shown(), run.state.step)
    run.board.picture("neighbours", beside, run.state.step)
    measures = stage.rate("test") | {"novelty": novel, "seconds": Measure(run.state.seconds, "s")}
    if first.measures.extractors:
        real = [batch.x for batch in map(first.placed, first.data.held_out("test"))]
        measures |= first.measures.of_samples(real, stage.samples, sum(map(len, real)))
    run.ended(first.data)
    samples = first.data.view.shown(stage.samples(0, 16)).cpu()
    return records(config, row, measures, run.state.seconds), {"curve": run.curve, "best_step": run.best()["step"], "samples": samples}
