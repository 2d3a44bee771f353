"""Faults of the data: a worker that dies, a corrupt image in the middle of an epoch. The run stops with the cause, and goes on bit for bit afterwards."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from experiments.pool import side_by_side
from latentcomp.batch import Batch
from latentcomp.checkpoint import save_data
from latentcomp.checkpoints import Checkpoints
from latentcomp.noise import permutation
from latentcomp.train import fit
from tests.faults.victims import forked, waited
from tests.learners.contract import X, adam, made, state

pytestmark = pytest.mark.usefixtures("unchecked")
STEPS, SIZE = 9, 4


class Pictures(Dataset):
    """PNG files of a folder; a file ``die`` there kills the process that reads the image of its number, once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Image and position."""
        die = self.folder / "die"
        if die.exists() and die.read_text() == str(index):
            die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        path = self.folder / f"{index}.png"
        try:
            with Image.open(path) as image:
                pixels = torch.tensor(list(image.getdata())).view(1, 2, 3)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} is no image that can be read ({error}): replace it") from None
        return (pixels > 127).double(), index


def written(folder: Path) -> Path:
    """The images as files."""
    folder.mkdir()
    for index, image in enumerate(X):
        Image.fromarray((image[0] * 255).byte().numpy()).save(folder / f"{index}.png")
    return folder


def batches(folder: Path, start: int, workers: int) -> Iterator[Batch]:
    """From a step on; the order is a function of (seed, epoch)."""
    per_epoch = len(X) // SIZE
    order = [permutation(len(X), 1, step // per_epoch)[step % per_epoch * SIZE :][:SIZE].tolist() for step in range(start, STEPS)]
    for x, index in DataLoader(Pictures(folder), batch_sampler=order, num_workers=workers):
        yield Batch(x, index=index)


def run(images: Path, folder: Path, workers: int = 0) -> None:
    """A user's own loop over ``fit``, with checkpoints at each step."""
    torch.manual_seed(0)
    model, learner = made("gflownet_replay")
    parts = {"model": model, "learner": learner, "optimizer": adam(model, learner)}
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(parts)
    start = found.step if found else 0
    for step, _ in enumerate(fit(model, learner, batches(images, start, workers), parts["optimizer"]), start + 1):
        checkpoints.save(step, parts)
    save_data(folder / "end.pt", state(model, learner))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The end of a run to which nothing happened."""
    folder = tmp_path_factory.mktemp("data")
    assert waited(forked(lambda: run(written(folder / "images"), folder / "run"))) == 0
    return torch.load(folder / "run" / "end.pt", weights_only=True)


def assert_goes_on(images: Path, folder: Path, whole: dict) -> None:
    assert waited(forked(lambda: run(images, folder))) == 0
    end = torch.load(folder / "end.pt", weights_only=True)
    assert all(torch.equal(end[key], whole[key]) for key in whole)


def test_a_corrupt_image_in_the_middle_of_an_epoch_is_named_and_costs_nothing_before_it(whole, tmp_path):
    images = written(tmp_path / "images")
    bad = permutation(len(X), 1, 1)[SIZE].item()  # in the second batch of the second epoch, and in the first epoch too
    first = (permutation(len(X), 1, 0) == bad).nonzero().item() // SIZE
    good = (images / f"{bad}.png").read_bytes()
    (images / f"{bad}.png").write_bytes(good[: len(good) // 2])

    def stops():
        with pytest.raises(ValueError, match=rf"{bad}\.png is no image that can be read"):
            run(images, tmp_path / "run")

    assert waited(forked(stops)) == 0
    latest = Checkpoints(tmp_path / "run").latest()
    assert (latest.step if latest else 0) == first
    (images / f"{bad}.png").write_bytes(good)
    assert_goes_on(images, tmp_path / "run", whole)


def test_a_loader_s_worker_that_dies_stops_the_run_and_it_goes_on(whole, tmp_path):
    images = written(tmp_path / "images")
    (images / "die").write_text(str(permutation(len(X), 1, 1)[SIZE].item()))

    def stops():
        with pytest.raises(RuntimeError, match="DataLoader worker .* (exited unexpectedly|is killed by signal)"):  # wherever the process was, a save included
            run(images, tmp_path / "run", workers=1)

    assert waited(forked(stops)) == 0
    assert_goes_on(images, tmp_path / "run", whole)


def test_a_worker_s_death_during_a_save_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    """Torch tells of it by a signal, wherever the process is."""

    def told(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")

    model, learner = made("vq_ema")
    monkeypatch.setattr(torch, "save", told)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        Checkpoints(tmp_path).save(1, {"model": model, "learner": learner})


def job(number: int, folder: str) -> int:
    """The second one kills its process at the first try."""
    mark = Path(folder) / "tried"
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.slow
def test_a_run_s_process_that_dies_is_named_and_the_same_command_makes_it(tmp_path):
    """Runs side by side: what is done is kept, what the pool lost comes back as errors, never as silence."""
    tries = [dict(side_by_side(job, [(number, str(tmp_path)) for number in range(3)], list("abc"), [1] * 3)) for _ in range(2)]
    assert isinstance(tries[0][1], Exception)
    assert all(result == number or isinstance(result, Exception) for number, result in tries[0].items())
    assert tries[1] == {0: 0, 1: 1, 2: 2}
