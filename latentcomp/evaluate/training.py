"""How every learner is trained and selected: for a number of batches, with looks at validation images, of which the best is kept."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

from torch import Tensor
from torch.optim import Optimizer

from latentcomp import processes
from latentcomp.data.split import Split
from latentcomp.engine import Engine
from latentcomp.evaluate.budget import Budget, Descent, Looks, Machine, Source, Training
from latentcomp.evaluate.run import Run, nll_looks, validation_nll
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.signals import Signals
from latentcomp.train import fit

__all__ = ["Budget", "Descent", "Looks", "Machine", "Source", "Training", "train", "validation_nll"]

Watch = Callable[[int, dict[str, float]], None]


def train(
    model: LatentVariableModel,
    learner: Learner,
    data: Source,
    descent: Descent | Optimizer,
    budget: Budget,
    seed: int = 0,
    watch: Watch | None = None,
    machine: Machine = Machine(),  # noqa: B008 - an immutable tuple
    looks: Looks | None = None,
) -> Training:
    """Trains within the budget and leaves model and learner in the state of the best look.

    With checkpoints, a run that was killed goes on where it last saved, and ends bit for bit where it would have ended; SIGTERM, SIGINT, SIGUSR1 and SIGUSR2
    let it finish its step, save and exit. Without checkpoints it listens to no signal.

    Args:
        model: theta.
        learner: phi.
        data: what to train on; where ``looks`` are not given, its validation images choose the state.
        descent: an optimiser over both, with or without a schedule and a weight average.
        budget: how long, and how often to look.
        seed: of the order of the data and of all noise.
        watch: called after each look with the step and the look's numbers.
        machine: processes, precision and checkpoints.
        looks: what is measured, and which state is kept; by default that of the best negative log-likelihood of the validation images.

    Raises:
        TypeError: data without validation images, and no ``looks``.
        NonFiniteLoss: names the step, the learner and the term.
        Interrupted: a signal asked the run to end, and it has saved.
        PeerFailed: another process of the run stopped with an error.
    """
    with processes.Watch():
        descent = descent if isinstance(descent, Descent) else Descent(descent)
        learner.seed = seed
        run = Run(model, learner, descent, looks or usual_looks(model, data, budget, machine), machine)
        return _trained(run, data, budget, seed, watch)


def _trained(run: Run, data: Source, budget: Budget, seed: int, watch: Watch | None) -> Training:
    machine, start = run.machine, run.restored()
    with Signals() if machine.checkpoints is not None else nullcontext() as signals:
        for step, metrics in enumerate(_steps(run, data, budget, seed, start), start + 1):
            run.advance(metrics)
            run.pause()
            due = step % budget.every == 0 or step == budget.updates
            look = run.look(step) if due else None
            if machine.log:
                machine.log(step, metrics)
            if look and watch:
                watch(step, look)
            asked = signals is not None and signals.asked()
            if due or asked or (machine.every and step % machine.every == 0):
                run.save(step, run.looks.score(look) if look else None)
            if signals is not None and asked:
                signals.end(f"after {step} of {budget.updates} batches")
            if run.over:
                break
            run.resume()
        if signals is not None and signals.asked():  # while the last step was saved
            signals.end(f"after {budget.updates} of {budget.updates} batches")
    return run.ended()


def usual_looks(model: LatentVariableModel, data: Source, budget: Budget, machine: Machine) -> Looks:
    """The negative log-likelihood of the validation images, which are looked at first.

    Raises:
        TypeError: there are none.
    """
    if not isinstance(data, Split):
        raise TypeError(f"{type(data).__name__} holds no validation images as tensors: say what is to be looked at with looks=Looks(...)")
    model.check(data.validation)
    return nll_looks(Engine(machine.fabric).placed(data.validation), budget)


def _steps(run: Run, data: Source, budget: Budget, seed: int, start: int) -> Iterator[dict[str, Tensor]]:
    """What is left of a run; nothing of one that patience has ended."""
    if run.over:
        return iter(())
    batches = data.batches(budget.size, budget.updates, seed).after(start)
    return fit(run.model, run.learner, batches, run.descent.optimizer, run.machine.accumulate, run.descent.clip, run.machine.fabric)
