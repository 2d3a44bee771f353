"""Logs that hold every step once, and grids."""

import resource
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.run import _bar, _progress
from experiments.watching.grids import grid, save
from experiments.watching.log import CSV, Log, TensorBoard
from experiments.watching.watcher import Shows, Watched, Watcher
from latentcomp.evaluate.budget import Looks
from latentcomp.evaluate.collapse import CollapseWarning
from tests.faults.victims import forked, waited
from tests.learners.contract import X, made


def steps(log: Log, first: int, last: int) -> None:
    """A metric that float32 cannot hold exactly, and one that only odd steps have."""
    for step in range(first, last + 1):
        log(step, {"loss": torch.tensor(1 / step, dtype=torch.float64)} | ({"odd": torch.tensor(step)} if step % 2 else {}))


def test_the_lines_of_a_log_that_was_cut_back_are_those_of_one_that_was_not(tmp_path):
    whole, stopped = (Log({"csv": CSV(tmp_path / f"{name}.csv")}, every=3) for name in ("whole", "stopped"))
    steps(whole, 1, 10)
    whole.flush()
    steps(stopped, 1, 4)
    state = stopped.state_dict()
    steps(stopped, 5, 8)  # lost: the run was saved after four steps
    again = Log({"csv": CSV(tmp_path / "stopped.csv")}, every=3)
    again.load_state_dict(state)
    steps(again, 5, 10)
    again.flush()
    text = (tmp_path / "whole.csv").read_text()
    assert (tmp_path / "stopped.csv").read_text() == text
    lines = [line.split(",") for line in text.splitlines()]
    assert lines[0] == ["step", "metric", "value"]
    assert [float(value) for _, name, value in lines[1:] if name == "loss"] == [1 / step for step in range(1, 11)], "read back exactly"
    assert [int(step) for step, name, _ in lines[1:] if name == "odd"] == [1, 3, 5, 7, 9]


def test_a_new_run_writes_its_log_anew_and_a_lost_log_is_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old")
    log = Log({"csv": CSV(path)})
    steps(log, 1, 1)
    state = log.state_dict()
    assert path.read_text().startswith("step,metric,value\n1,loss,1.0\n")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"log\.csv should hold \d+ bytes of the first 1 steps"):
        Log({"csv": CSV(path)}).load_state_dict(state)


def test_lines_wait_while_nothing_can_be_written(tmp_path):
    (tmp_path / "log.csv").mkdir()
    log = CSV(tmp_path / "log.csv")
    with pytest.warns(UserWarning, match="cannot be written .*; its lines wait"):
        log.write([(1, "a", 1.0)])
    (tmp_path / "log.csv").rmdir()
    log.write([(2, "a", 2.0)])
    assert (tmp_path / "log.csv").read_text() == "step,metric,value\n1,a,1.0\n2,a,2.0\n"


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = Log({"board": TensorBoard(tmp_path)}, every=1)
    steps(log, 1, 4)
    state = log.state_dict()
    steps(log, 5, 7)
    log.flush(), log.writers["board"].mark()
    again = Log({"board": TensorBoard(tmp_path)}, every=1)
    again.load_state_dict(state)
    again.picture(5, "images", torch.rand(1, 4, 4))
    steps(again, 5, 8)
    again.state_dict()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    assert [event.step for event in events.Images("images")] == [5]


@pytest.mark.parametrize("name", ["vq_ema", "gflownet_replay"])
def test_a_grid_shows_images_reconstructions_and_dreams_and_changes_nothing(name, tmp_path):
    model, learner = made(name)
    model.train(), learner.train()
    evaluations = model.decoder_evaluations
    image = grid(model, learner, X[:4])
    assert image.shape == (1, 3 * 3, 4 * 4)
    assert torch.equal(image[:, :2, :3], X[0])
    z = learner.posterior(model, X[:1]).mode
    torch.testing.assert_close(image[:, 3:5, :3], model.decode(model.codebook(z)).mean[0].detach())
    assert model.training
    assert learner.training
    assert model.decoder_evaluations - evaluations == 1, "only this test's own"
    assert torch.equal(image, grid(model, learner, X[:4]))
    save(image, tmp_path / "a" / "grid.png")
    assert np.asarray(Image.open(tmp_path / "a" / "grid.png")).shape == (9, 16)


@pytest.mark.usefixtures("unchecked")
def test_tensorboard_on_a_full_disk_warns_and_goes_on_when_it_can(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def full():
        """A file that may not grow stands for a disk that is full."""
        log = Log({"board": TensorBoard(tmp_path)}, every=1)
        steps(log, 1, 1), log.state_dict()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, limits[1]))
        with pytest.warns(UserWarning, match="cannot be written .*; TensorBoard lacks some steps"):  # noqa: PT031
            for step in range(2, 5):
                steps(log, step, step), log.state_dict()
                log.picture(step, "images", torch.rand(1, 4, 4))
                time.sleep(0.1)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the last writer may have died late
            steps(log, 5, 5), log.state_dict()
        steps(log, 6, 7), log.state_dict()

    assert waited(forked(full)) == 0
    files = [accumulator.EventAccumulator(str(path)).Reload() for path in tmp_path.iterdir()]
    assert {event.step for file in files if "loss" in file.Tags()["scalars"] for event in file.Scalars("loss")} >= {1, 6, 7}


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_process_draws_a_bar(rank, monkeypatch):
    """The rank is asked for at each step: before the first, nobody has launched the processes."""
    bar = _bar()
    move = _progress(bar, bar.add_task("run", total=3))
    monkeypatch.setattr("latentcomp.processes.rank", lambda: rank)
    try:
        move(1), move(2)
        assert bar.live.is_started == (rank == 0)
        assert bar.tasks[0].completed == (2 if rank == 0 else 0)
    finally:
        bar.live.stop()


def test_a_run_that_goes_on_warns_of_a_collapse_as_one_that_was_never_stopped(tmp_path):
    """The best health is saved with the log, as plain data."""
    model, learner = made("gflownet_replay")
    looks = Looks(lambda model, learner: {"val_nll": 1.0})
    before, after = (Watcher(looks, Shows(X), tmp_path, None) for _ in range(2))
    log = Watched(Log({"csv": CSV(tmp_path / "log.csv")}), before)
    steps(log, 1, 2)
    assert before.looks.measure(model, learner) == {"val_nll": 1.0}
    torch.save(log.state_dict(), tmp_path / "state.pt")
    again = Watched(Log({"csv": CSV(tmp_path / "log.csv")}), after)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert after.best == before.best is not None
    after.best = after.best._replace(perplexity=10 * after.best.perplexity)
    with pytest.warns(CollapseWarning, match="code usage falls"):
        after.looks.measure(model, learner)
