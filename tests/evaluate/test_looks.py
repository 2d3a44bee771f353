"""What a run looks at decides where it is left: any number, more or less of it, the last state, or an early end. A run that goes on looks as one that never
stopped.
"""

import math
import os
import signal

import pytest
import torch

from latentcomp.checkpoints import Checkpoints
from latentcomp.data.split import Split
from latentcomp.evaluate.training import Budget, Descent, Looks, Machine, train
from latentcomp.signals import Interrupted
from tests.learners.contract import X, adam, assert_same, made, state

DATA = Split(X, X[:6], X[6:])
BUDGET = Budget(updates=6, size=5, every=1)


class Scripted:
    """Looks whose numbers are given, and which remember the states that they saw."""

    def __init__(self, *values: float) -> None:
        self.values, self.states = list(values), []

    def __call__(self, model, learner) -> dict[str, float]:
        """The next number."""
        assert not model.training
        assert not learner.training
        self.states.append(state(model, learner))
        return {"score": self.values[len(self.states) - 1], "other": 0.0}


def trained(measure, average: float = 0.0, machine: Machine | None = None, **looks):
    """A short run."""
    model, learner = made("vq_ema")
    training = train(model, learner, DATA, Descent(adam(model, learner), average=average), BUDGET, 3, None, machine or Machine(), Looks(measure, **looks))
    return training, state(model, learner)


@pytest.mark.parametrize(
    ("looks", "best"), [({"watched": "score"}, 2), ({"watched": "score", "highest": True}, 4), ({"watched": None}, 6)], ids=["least", "most", "last"]
)
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_state_that_is_asked_for_is_kept_as_it_was_seen(looks, best, average):
    measure = Scripted(3.0, 1.0, 2.0, 9.0, 1.0, 5.0)
    training, end = trained(measure, average, **looks)
    assert training.best_step == best
    assert_same(end, measure.states[best - 1])
    assert [look["score"] for look in training.curve] == measure.values
    assert {"step", "seconds", "other", "m_loss"} <= training.curve[0].keys()


def test_a_run_ends_early_and_stays_ended_when_it_goes_on(tmp_path):
    machine = Machine(checkpoints=Checkpoints(tmp_path))
    measure = Scripted(3.0, 1.0, 1.5, 1.0, 0.5, 0.1)
    training, end = trained(measure, machine=machine, watched="score", patience=2)
    assert [look["step"] for look in training.curve] == [1, 2, 3, 4], "equal is no better"
    assert training.best_step == 2
    again, same = trained(Scripted(), machine=machine, watched="score", patience=2)
    assert again.curve == training.curve
    assert_same(end, same)


def test_what_is_not_finite_is_never_kept_and_named_where_nothing_is():
    measure = Scripted(math.nan, 2.0, math.nan, 1.0, math.inf, 3.0)
    assert trained(measure, watched="score")[0].best_step == 4
    with pytest.raises(FloatingPointError, match=r"score is inf at the look after step 2, and no look before it was finite"):
        trained(Scripted(math.nan, math.inf), watched="score")
    with pytest.raises(FloatingPointError, match=r"score is nan"):
        trained(Scripted(math.nan, math.nan), watched="score", highest=True)


def test_a_number_that_no_look_has_is_named():
    with pytest.raises(ValueError, match=r"watched=lpips is no number of a look; those are other, score"):
        trained(Scripted(1.0), watched="lpips")


def test_data_without_validation_images_wants_looks():
    class Folder:
        """Batches, and nothing else."""

        batches = staticmethod(DATA.batches)

    model, learner = made("vq_ema")
    with pytest.raises(TypeError, match="Folder holds no validation images as tensors: say what is to be looked at"):
        train(model, learner, Folder(), adam(model, learner), BUDGET)
    training = train(model, learner, Folder(), adam(model, learner), BUDGET, looks=Looks(Scripted(*map(float, range(6))), "score"))
    assert training.best_step == 1


def test_the_curve_holds_means_over_all_steps_since_the_look_before_also_across_a_stop(tmp_path):
    """Looks at steps 4 and 6, a stop after 3."""
    logged: list[dict[str, torch.Tensor]] = []

    class Log:
        """Remembers metrics, and stops a run."""

        def __init__(self, stops: bool) -> None:
            self.stops = stops

        def __call__(self, step, metrics):
            """A step."""
            if self.stops and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            if not self.stops:
                logged.append(metrics)

        def state_dict(self):
            """Nothing."""
            return {}

        def load_state_dict(self, state):
            """Nothing."""

    def run(folder, stops: bool):
        model, learner = made("vq_ema")
        machine = Machine(checkpoints=Checkpoints(folder), log=Log(stops))
        return train(model, learner, DATA, adam(model, learner), Budget(6, size=5, every=4), 3, machine=machine).curve

    whole = run(tmp_path / "whole", False)
    wanted = torch.stack([metrics["m_loss"].double() for metrics in logged[:4]]).mean()
    assert whole[0]["m_loss"] == pytest.approx(float(wanted))
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", True)
    again = run(tmp_path / "stopped", False)
    assert [{k: v for k, v in look.items() if k != "seconds"} for look in again] == [{k: v for k, v in look.items() if k != "seconds"} for look in whole]
