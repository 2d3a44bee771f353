"""A run in training: everything that it is made of and that changes, so that it can be saved and go on elsewhere as if it had never stopped."""

import copy
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from latentcomp import processes
from latentcomp.checkpoint import Stateful
from latentcomp.engine import Engine
from latentcomp.enumeration import enumerable
from latentcomp.evaluate import importance
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.budget import Budget, Descent, Looks, Machine, Training
from latentcomp.evaluate.exact import log_px as exact_log_px
from latentcomp.evaluate.means import Means
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior
from latentcomp.random_states import RandomStates


class Run:
    """Model, learner, optimiser, schedule, weight average, the best state so far, the curve and the clock.

    Args:
        model: theta.
        learner: phi.
        descent: how it descends.
        looks: what is measured of it, and which state is kept.
        machine: where it computes and saves.
    """

    def __init__(self, model: LatentVariableModel, learner: Learner, descent: Descent, looks: Looks, machine: Machine) -> None:
        self.model, self.learner, self.descent, self.looks, self.machine = model, learner, descent, looks, machine
        Engine(machine.fabric).place(model, learner, [descent.optimizer])
        self.average, self.means = WeightAverage(descent.average, model, learner), Means()
        self.curve: list[dict[str, float]] = []
        self.best, self.best_step, self.kept = math.inf, 0, self._copied()
        self.decoded, self._spent, self._start = 0, 0.0, time.perf_counter()
        self._evaluations = model.decoder_evaluations
        self.training(True)

    def _copied(self) -> dict[str, Any]:
        return {"model": copy.deepcopy(self.model.state_dict()), "learner": copy.deepcopy(self.learner.state_dict())}

    def training(self, mode: bool) -> None:
        """Puts the networks into or out of training mode."""
        self.model.train(mode)
        self.learner.train(mode)

    @property
    def seconds(self) -> float:
        """Of training until now, those of earlier processes included and looks and saves excluded."""
        return self._spent + time.perf_counter() - self._start

    def pause(self) -> None:
        """Stops the clock and the count of decoded images."""
        self._spent, self.decoded = self.seconds, self.decoded + self.model.decoder_evaluations - self._evaluations

    def resume(self) -> None:
        """Starts them again."""
        self._start, self._evaluations = time.perf_counter(), self.model.decoder_evaluations

    def advance(self, metrics: Mapping[str, Tensor]) -> None:
        """What follows every batch: the schedule of the rates, the weight average and the means of the metrics move on."""
        if self.descent.scheduler is not None:
            self.descent.scheduler.step()
        self.average.update()
        self.means.update(metrics)

    def look(self, step: int) -> dict[str, Any]:
        """Measures the state, keeps it if it is the best, and adds a point to the curve.

        Raises:
            ValueError: the number that is watched is none of a look's.
            FloatingPointError: two looks, and none of them finite in that number, so that there is no state to keep.
        """
        self.training(False)
        evaluations = self.model.decoder_evaluations
        with self.average.applied():
            numbers = self.looks.measure(self.model, self.learner)
            self._keep(step, numbers)
        self.training(True)
        self.model.decoder_evaluations = evaluations
        self.curve.append({"step": step} | self.means.values() | numbers | {"seconds": self._spent})
        self.means.clear()
        if len(self.curve) > 1:
            self._check()
        return self.curve[-1]

    def _keep(self, step: int, numbers: dict[str, float]) -> None:
        """The processes keep the same state, and so end after the same look: the first one's number decides."""
        score = self.looks.score(numbers)
        score = None if score is None else _of_the_first(score)
        if score is None or score < self.best:
            self.best, self.best_step, self.kept = self.best if score is None else score, step, self._copied()

    def _check(self) -> None:
        name = self.looks.watched
        if name is not None and self.best == math.inf:
            raise FloatingPointError(
                f"{name} is {self.curve[-1][name]} at the look after step {self.curve[-1]['step']:.0f}, and no look before it was finite, so no state is kept: "
                "lower the learning rate, or watch another number of a look"
            )

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return 0 < self.looks.patience <= sum(look["step"] > self.best_step for look in self.curve)

    def ended(self) -> Training:
        """Gives model and learner the state that was kept.

        Raises:
            FloatingPointError: no look was finite in the number that is watched.
        """
        self.pause()
        if self.curve:
            self._check()
        self.model.load_state_dict(self.kept["model"])
        self.learner.load_state_dict(self.kept["learner"])
        self.training(False)
        return Training(self.curve, self.best_step, self.decoded, self._spent)

    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds."""
        parts: dict[str, Stateful] = {"model": self.model, "learner": self.learner, "optimizer": self.descent.optimizer, "average": self.average}
        parts |= {"scheduler": self.descent.scheduler} if self.descent.scheduler is not None else {}
        parts |= {"log": self.machine.log} if self.machine.log is not None else {}
        return parts | {"run": self, "random": RandomStates()}

    def restored(self) -> int:
        """Goes back to where the run last saved itself, and says how many steps were made then."""
        if self.machine.checkpoints is None:
            return 0
        found = self.machine.checkpoints.restore(self.parts())
        self.resume()
        return 0 if found is None else found.step

    def save(self, step: int, score: float | None) -> None:
        """Writes a checkpoint, where there is a place for them."""
        if self.machine.checkpoints is not None:
            self.machine.checkpoints.save(step, self.parts(), score)

    def state_dict(self) -> dict[str, Any]:
        """What no other part holds."""
        own = {"curve": self.curve, "best": self.best, "best_step": self.best_step, "kept": self.kept, "seconds": self._spent, "decoded": self.decoded}
        return own | self.means.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.curve, self.best, self.best_step, self.kept = state["curve"], state["best"], state["best_step"], state["kept"]
        self._spent, self.decoded = state["seconds"], state["decoded"]
        self.means.load_state_dict(state)


def _of_the_first(number: float) -> float:
    """What the first process found."""
    if processes.count() == 1:
        return number
    told = torch.tensor(number, dtype=torch.float64, device=processes.device())
    processes.broadcast([told])
    return float(told)


def nll_looks(x: Tensor, budget: Budget) -> Looks:
    """The negative log-likelihood of validation images, the lowest of which is kept."""
    return Looks(lambda model, learner: {"val_nll": validation_nll(model, learner.posterior, x, budget)})


@torch.no_grad()
def validation_nll(model: LatentVariableModel, posterior: Posterior, x: Tensor, budget: Budget) -> float:
    """-mean log p(x) under the prior the model is trained with: exact, or importance-weighted with the learner's own posterior."""
    x = x[: budget.look_images or len(x)]
    if enumerable(model.cardinalities, len(x)):
        return -float(exact_log_px(model, x).mean())
    return -float(importance.log_px(model, posterior, x, samples=min(budget.look_samples, budget.samples)).log_px.mean())
