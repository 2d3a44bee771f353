"""A stage in training: what is kept is the best state, a stopped one goes on bit for bit, and rows that want the same state share it."""

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.taming.course import CURVE, DONE, LAST, Course, Looks, Place, shared, trained
from experiments.taming.vqgan import Nearest, Preset, vqgan
from latentcomp.codebook import EMACodebook
from latentcomp.data.batches import Batches
from latentcomp.evaluate.training import Descent
from latentcomp.likelihoods import Laplace
from latentcomp.signals import Interrupted
from latentcomp.taming.presets import Size

X = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def preset() -> Preset:
    torch.manual_seed(0)
    size = Size((1, 8, 8), codes=8, width=4, features=8, channels=8, multipliers=(1, 1), blocks=1, group=4)
    return vqgan(size, EMACodebook(8, 4, 0.1), Nearest(), Laplace(0.1))


def course_of(made: Preset) -> Course:
    return Course({"model": made.model, "learner": made.learner})


def descend(made: Preset, updates: int, folder: Path | None = None, looks: Looks | None = None, course: Course | None = None) -> Course:
    course = course or course_of(made)
    optimizer = torch.optim.Adam([*made.model.parameters(), *made.learner.parameters()], 1e-2)
    trained(*made, Batches(X, 10, updates, 0), Descent(optimizer, None, 0.5), looks or Looks(2, dict), Place(folder), course)
    course.restore()
    return course


def weights(made: Preset) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": value for part in ("model", "learner") for name, value in getattr(made, part).state_dict().items() if torch.is_tensor(value)}


def test_the_best_look_is_kept():
    made, numbers, seen = preset(), iter((3.0, 1.0, 2.0)), []

    def look():
        seen.append({name: value.clone() for name, value in weights(made).items()})
        return {"nll": next(numbers)}

    steps = []
    course = course_of(made)
    optimizer = torch.optim.Adam([*made.model.parameters(), *made.learner.parameters()], 1e-2)
    trained(*made, Batches(X, 10, 5, 0), Descent(optimizer), Looks(2, look, "nll"), Place(None, None, steps.append), course)
    assert [at["step"] for at in course.curve] == steps == [2, 4, 5]
    assert (course.best, course.best_step) == (1.0, 4)
    assert course.curve[-1]["seconds"] >= course.curve[0]["seconds"] > 0
    course.restore()
    assert all(torch.equal(value, seen[1][name]) for name, value in weights(made).items())
    assert not torch.equal(seen[1]["model.codebook.weight"], seen[2]["model.codebook.weight"])


def test_without_a_number_to_watch_the_last_state_is_kept():
    assert descend(preset(), 5).best_step == 5


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    whole = preset()
    expected = descend(whole, 8)

    class Stop(Exception):
        pass

    looks = iter(({}, {}))

    def look():
        found = next(looks, None)
        if found is None:
            raise Stop
        return found

    with pytest.raises(Stop):
        descend(preset(), 8, tmp_path, Looks(2, look))
    assert (tmp_path / LAST).exists()
    again = preset()
    found = descend(again, 8, tmp_path)
    assert [at["step"] for at in found.curve] == [2, 4, 6, 8]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    assert [at["m_loss"] for at in found.curve] == [at["m_loss"] for at in expected.curve]


def test_a_signal_ends_a_run_after_its_step_and_the_same_call_goes_on(tmp_path):
    """The signal comes at the first look, so that the run ends after the step behind it, where there is no look."""
    whole = preset()
    descend(whole, 8)
    with pytest.raises(Interrupted, match="SIGTERM came after 3 of 8 batches; saved") as caught:
        descend(preset(), 8, tmp_path, Looks(2, lambda: os.kill(os.getpid(), signal.SIGTERM) or {}))
    assert caught.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    again = preset()
    assert [at["step"] for at in descend(again, 8, tmp_path).curve] == [2, 4, 6, 8]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(again).items())
    lines = (tmp_path / CURVE).read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "2", "4", "6", "8"]


def test_rows_that_want_the_same_state_share_it(tmp_path):
    calls = []

    def state(identity):
        made = preset()
        course = course_of(made)

        def train(own):
            calls.append(own)
            descend(made, 4, own, course=course)

        shared(tmp_path, identity, course, train)
        return made, course

    first, course = state({"seed": 0})
    second, loaded = state({"seed": 0})
    assert len(calls) == 1
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(second).items())
    assert loaded.curve == course.curve
    assert not second.model.training
    state({"seed": 1})
    assert len(calls) == 2
    assert calls[0] != calls[1]
    assert sorted(path.name for path in calls[0].iterdir()) == sorted([CURVE, DONE, "lock"]), "the checkpoint of the way there is gone"


def test_only_named_modules_are_kept_and_put_into_evaluation_mode():
    made = preset()
    course = Course({"decoder": made.model.decoder})
    shared(None, {}, course, lambda own: descend(made, 2, own, course=course))
    assert course.kept.keys() == {"decoder"}
    assert not made.model.decoder.training
    assert isinstance(course.modules["decoder"], nn.Module)
