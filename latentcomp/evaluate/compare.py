"""compare(): the fair table for your own model, in one call."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from latentcomp.data.split import Split
from latentcomp.evaluate.protocol import Also, Measure, default_prior, judge
from latentcomp.evaluate.training import Budget, train
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Prior
from latentcomp.statistics import interval, separated


class Comparison(NamedTuple):
    """The numbers of all learners, one record for each row, seed and metric; printing it gives the table.

    Attributes:
        records: row, seed, metric, value, unit, stderr (over test images), reason (of a value that is None).
        turned: what a seed turns.
    """

    records: list[dict[str, Any]]
    turned: str

    def values(self, row: str, metric: str) -> list[float]:
        """One value for each seed."""
        return [r["value"] for r in self.records if r["row"] == row and r["metric"] == metric and r["value"] is not None]

    def __str__(self) -> str:
        from tabulate import tabulate

        rows = list(dict.fromkeys(r["row"] for r in self.records))
        shown = [m for m in dict.fromkeys(r["metric"] for r in self.records) if m in _SHOWN or m.startswith(_OF_IMAGES)]
        table = [[row] + [self._cell(row, metric) for metric in shown] for row in rows]
        seeds = len({r["seed"] for r in self.records})
        return (
            tabulate(table, ["learner", *shown], "github")
            + f"\n\nmean ± half of the 95 % interval over {seeds} seed(s); a seed turns {self.turned}; * best, or not separated from it"
        )

    def _cell(self, row: str, metric: str) -> str:
        values = self.values(row, metric)
        if not values:
            return "inf"
        mean = interval(values)
        spread = "" if len(values) < 2 else f" ± {mean.half_width:.2f}"
        return f"{mean.mean:.2f}{spread}{' *' if metric in _HEADLINES and row in self._best(metric) else ''}"

    def _best(self, metric: str) -> set[str]:
        rows = dict.fromkeys(r["row"] for r in self.records)
        return separated({row: self.values(row, metric) for row in rows})


_HEADLINES = ("exact_nll", "iw_nll")
_SHOWN = (*_HEADLINES, "exact_nll_uniform_prior", "iw_nll_uniform_prior", "own_bound", "kl_q_p", "perplexity", "bound_gap", "seconds")
_OF_IMAGES = ("psnr", "ssim", "lpips", "rfid_", "rkid_", "fid_", "kid_", "is_")


def compare(
    model_factory: Callable[[], LatentVariableModel],
    learners: Mapping[str, Callable[[], Learner]],
    data: Split | Callable[[int], Split],
    seeds: int = 3,
    budget: Budget = Budget(),  # noqa: B008 - an immutable tuple
    rate: float = 3e-3,
    prior: Callable[[LatentVariableModel], Prior] = default_prior,
    proposal: Callable[[], Posterior] | None = None,
    also: Also | None = None,
) -> Comparison:
    """Trains each learner on a fresh model for each seed and judges all by the same yardstick.

    Args:
        model_factory: makes the model; called anew for each row and seed, with the same seed for every row.
        learners: makes each learner, by the name of its row.
        data: training, validation and test images; or a function of the seed that makes them, such as ``digits``, so that a seed also turns the fold.
        seeds: how many repetitions.
        budget: of training and judging, the same for every row.
        rate: the learning rate of Adam, for theta and phi.
        prior: makes the prior of the second stage.
        proposal: makes the proposal of importance sampling, where there are too many codes to enumerate.
        also: further measures, such as :class:`~latentcomp.evaluate.images.ImageMeasures` for PSNR, LPIPS and rFID.

    Returns:
        The records; ``print`` it for the table.

    Raises:
        TypeError: a learner was passed where a function that makes one is wanted.
        ValueError: images the model cannot explain.
    """
    for name, factory in learners.items():
        if isinstance(factory, Learner):
            raise TypeError(
                f"learners[{name!r}] is a learner; every seed needs a fresh one, so pass a function that makes it: lambda: {type(factory).__name__}(...)"
            )
    records = []
    for seed in range(seeds):
        split = data(seed) if callable(data) else data
        for name, factory in learners.items():
            torch.manual_seed(seed)
            model, learner = model_factory(), factory()
            optimizer = torch.optim.Adam([*model.parameters(), *learner.parameters()], rate, fused=True)
            training = train(model, learner, split, optimizer, budget, seed)
            measures = judge(model, learner, split, budget, seed, prior, proposal, also).measures
            measures |= {"decoder_evaluations": Measure(training.decoder_evaluations, "images"), "seconds": Measure(training.seconds, "s")}
            records += [{"row": name, "seed": seed, "metric": metric} | measure._asdict() for metric, measure in measures.items()]
    return Comparison(
        records, "the data's fold, the initial weights and all noise" if callable(data) else "the initial weights and all noise (training randomness only)"
    )
