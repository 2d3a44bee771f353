"""How every learner is trained and selected: for a number of batches, with looks at validation images, of which the best is kept."""

from collections.abc import Callable
from contextlib import nullcontext

from torch.optim import Optimizer

from latentcomp import processes
from latentcomp.data.split import Split
from latentcomp.evaluate.budget import Budget, Descent, Machine, Training
from latentcomp.evaluate.run import Run, validation_nll
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.signals import Interrupted, Signals
from latentcomp.train import fit

__all__ = ["Budget", "Descent", "Machine", "Training", "train", "validation_nll"]

Watch = Callable[[int, dict[str, float]], None]


def train(
    model: LatentVariableModel,
    learner: Learner,
    data: Split,
    descent: Descent | Optimizer,
    budget: Budget,
    seed: int = 0,
    watch: Watch | None = None,
    machine: Machine = Machine(),  # noqa: B008 - an immutable tuple
) -> Training:
    """Trains within the budget and leaves model and learner in the state of the best validation look.

    With checkpoints, a run that was killed goes on where it last saved, and ends bit for bit where it would have ended; SIGTERM, SIGINT and SIGUSR1 let it
    finish its step, save and exit. Without checkpoints it listens to no signal.

    Args:
        model: theta.
        learner: phi.
        data: its validation images choose the state.
        descent: an optimiser over both, with or without a schedule and a weight average.
        budget: how long, and how often to look.
        seed: of the order of the data and of all noise.
        watch: called after each look with the step and the look's numbers.
        machine: processes, precision and checkpoints.

    Raises:
        NonFiniteLoss: names the step, the learner and the term.
        Interrupted: a signal asked the run to end, and it has saved.
        PeerFailed: another process of the run stopped with an error.
    """
    with processes.Watch():
        return _trained(model, learner, data, descent, budget, seed, watch, machine)


def _trained(
    model: LatentVariableModel, learner: Learner, data: Split, descent: Descent | Optimizer, budget: Budget, seed: int, watch: Watch | None, machine: Machine
) -> Training:
    model.check(data.validation)
    descent = descent if isinstance(descent, Descent) else Descent(descent)
    learner.seed = seed
    run = Run(model, learner, data, descent, budget, machine)
    start = run.restored()
    batches = data.batches(budget.size, budget.updates, seed).after(start)
    with Signals() if machine.checkpoints is not None else nullcontext() as signals:
        for step, metrics in enumerate(fit(model, learner, batches, descent.optimizer, machine.accumulate, descent.clip, machine.fabric), start + 1):
            run.advance()
            run.pause()
            looks = step % budget.every == 0 or step == budget.updates
            look = run.look(step, metrics) if looks else None
            if machine.log:
                machine.log(step, metrics)
            if look and watch:
                watch(step, look)
            asked = signals is not None and signals.asked()
            if looks or asked or (machine.every and step % machine.every == 0):
                run.save(step, look["val_nll"] if look else None)
            if signals is not None and asked:
                raise _interrupted(signals, step, budget)
            run.resume()
        if signals is not None and signals.asked():  # while the last step was saved
            raise _interrupted(signals, budget.updates, budget)
    return run.ended()


def _interrupted(signals: Signals, step: int, budget: Budget) -> Interrupted:
    return Interrupted(f"{signals.reason} after {step} of {budget.updates} batches; saved: the same command goes on from there")
