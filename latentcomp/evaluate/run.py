"""A run in training: everything that it is made of and that changes, so that it can be saved and go on elsewhere as if it had never stopped."""

import copy
import math
import time
from typing import Any

import torch
from torch import Tensor

from latentcomp.checkpoint import Stateful
from latentcomp.data.split import Split
from latentcomp.engine import Engine
from latentcomp.enumeration import enumerable
from latentcomp.evaluate import importance
from latentcomp.evaluate.averaging import WeightAverage
from latentcomp.evaluate.budget import Budget, Descent, Machine, Training
from latentcomp.evaluate.exact import log_px as exact_log_px
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.posteriors.posterior import Posterior
from latentcomp.random_states import RandomStates


class Run:
    """Model, learner, optimiser, schedule, weight average, the best state so far, the curve and the clock.

    Args:
        model: theta.
        learner: phi.
        data: its validation images are looked at.
        descent: how it descends.
        budget: how it looks.
        machine: where it computes and saves.
    """

    def __init__(self, model: LatentVariableModel, learner: Learner, data: Split, descent: Descent, budget: Budget, machine: Machine) -> None:
        self.model, self.learner, self.budget, self.machine, self.descent = model, learner, budget, machine, descent
        engine = Engine(machine.fabric)
        engine.place(model, learner, [descent.optimizer])
        self.validation = engine.placed(data.validation)
        self.average = WeightAverage(descent.average, model, learner)
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

    def advance(self) -> None:
        """What follows every batch: the schedule of the rates and the weight average move on."""
        if self.descent.scheduler is not None:
            self.descent.scheduler.step()
        self.average.update()

    def look(self, step: int, metrics: dict[str, Tensor]) -> dict[str, Any]:
        """Looks at the validation images, keeps the state if it is the best, and adds a point to the curve."""
        self.training(False)
        evaluations = self.model.decoder_evaluations
        with self.average.applied():
            nll = validation_nll(self.model, self.learner.posterior, self.validation, self.budget)
            if nll < self.best:
                self.best, self.best_step, self.kept = nll, step, self._copied()
        self.training(True)
        self.model.decoder_evaluations = evaluations
        self.curve.append({"step": step, "val_nll": nll, "seconds": self._spent} | {key: float(value) for key, value in metrics.items()})
        return self.curve[-1]

    def ended(self) -> Training:
        """Gives model and learner the best state."""
        self.pause()
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
        return {"curve": self.curve, "best": self.best, "best_step": self.best_step, "kept": self.kept, "seconds": self._spent, "decoded": self.decoded}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores it."""
        self.curve, self.best, self.best_step, self.kept = state["curve"], state["best"], state["best_step"], state["kept"]
        self._spent, self.decoded = state["seconds"], state["decoded"]


@torch.no_grad()
def validation_nll(model: LatentVariableModel, posterior: Posterior, x: Tensor, budget: Budget) -> float:
    """-mean log p(x) under the prior the model is trained with: exact, or importance-weighted with the learner's own posterior."""
    x = x[: budget.look_images or len(x)]
    if enumerable(model.cardinalities, len(x)):
        return -float(exact_log_px(model, x).mean())
    return -float(importance.log_px(model, posterior, x, samples=min(budget.look_samples, budget.samples)).log_px.mean())
