"""Runs that faults happen to, forked from the warm test process, since imports take seconds."""

import ctypes
import os
import random
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.watching.log import CSV, Log
from latentcomp import processes
from latentcomp.batch import Batch
from latentcomp.checkpoint import save_data
from latentcomp.checkpoints import Checkpoints
from latentcomp.data.split import Split
from latentcomp.evaluate.training import Budget, Descent, Looks, Machine, train
from latentcomp.learners.second_stage import SecondStage
from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from tests.learners.contract import X, adam, made, state

DATA = Split(X, X[:6], X[6:])
LOOKS = {"second_stage_masked": Looks(lambda model, learner: {"bound": float(bound(model, learner))}, "bound")}  # where there is no NLL to look at


def bound(model: LatentVariableModel, learner: SecondStage) -> torch.Tensor:
    """What a masked second stage descends, on the validation images."""
    x = Batch(DATA.validation)
    return -learner.objective(model.prior(), learner.codes(model, x), Noise(0, 0, x.positions)).mean().detach()


def run(name: str, folder: Path, updates: int = 8, every: int = 1, before: Callable[[int], None] = lambda step: None) -> None:
    """A whole run of a learner with schedule, weight average, log and dropout-like draws from torch's generator; goes on where the folder's run stopped.

    ``before`` is called before each step is logged. The end is written to ``end.pt``, that of other processes to ``end-RANK.pt``.
    """

    class Watched(Log):
        """The log, and the hook of a test."""

        def __call__(self, step: int, metrics: Any) -> None:
            """Keeps the metrics, and a draw of the generator that the checkpoint must restore."""
            before(step)
            super().__call__(step, metrics | {"generator": torch.rand(())})

    torch.manual_seed(11)
    model, learner = made(name)
    optimizer = adam(model, learner)
    descent = Descent(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 10)), 0.9)
    machine = Machine(
        checkpoints=Checkpoints(folder / "checkpoints"), every=every, log=Watched({"csv": CSV(folder / "log.csv")} if processes.rank() == 0 else {}, every=5)
    )
    training = train(model, learner, DATA, descent, Budget(updates, size=5, every=4), seed=3, machine=machine, looks=LOOKS.get(name))
    curve = [{key: value for key, value in point.items() if key != "seconds"} for point in training.curve]
    optimiser = [dict(s) for s in optimizer.state_dict()["state"].values()]
    name = f"end-{processes.rank()}.pt" if processes.rank() else "end.pt"
    save_data(folder / name, {"state": state(model, learner), "curve": curve, "best": training.best_step, "optimizer": optimiser})


def end(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Where a run ended, and its log."""
    return torch.load(folder / "end.pt", weights_only=True), (folder / "log.csv").read_bytes()


def assert_same_end(folder: Path, reference: Path) -> None:
    """Bit for bit: parameters, buffers, optimiser, curve and log."""
    (a, log), (b, expected) = end(folder), end(reference)
    assert log == expected
    assert_same_state(a, b)


def assert_same_state(a: dict[str, Any], b: dict[str, Any]) -> None:
    """Of two ends: parameters, buffers, optimiser and curve, bit for bit."""
    assert a["curve"] == b["curve"]
    assert a["best"] == b["best"]
    assert a["state"].keys() == b["state"].keys()
    assert all(_same(a["state"][key], b["state"][key]) for key in a["state"])
    for mine, theirs in zip(a["optimizer"], b["optimizer"], strict=True):
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, but that nan is nan."""
    return torch.equal(a, b) or (a.is_floating_point() and a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def forked(function: Callable[[], None]) -> int:
    """A child process that calls the function and ends with 0, with the code of a SystemExit, or with 1 after an error; its number."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        function()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def waited(process: int) -> int:
    """The exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(function: Callable[[], None], delay: float) -> bool:
    """Whether SIGKILL, sent from outside after a delay, ended the child before it was done."""
    process = forked(function)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    code = waited(process)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def timed(function: Callable[[], None]) -> float:
    """How many seconds it takes in a child."""
    start = time.perf_counter()
    assert waited(forked(function)) == 0
    return time.perf_counter() - start


def seeded() -> random.Random:
    """For the times of kills; its seed is printed, and taken from FAULTS_SEED where that is set."""
    seed = int(os.environ.get("FAULTS_SEED", time.time_ns() % 10**6))
    print(f"FAULTS_SEED={seed}")
    return random.Random(seed)


def small_disk(folder: Path, size: str = "4m") -> None:
    """Mounts a small file system of its own on a folder, for the calling process alone, which must be a child.

    Raises:
        SystemExit: with 77, where that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ctypes.CDLL(None).unshare(0x00020000) != 0:  # CLONE_NEWNS: mounts that no other process sees
        raise SystemExit(77)
    for command in (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]):
        if subprocess.run(command, capture_output=True).returncode:
            raise SystemExit(77)


def on_a_small_disk(function: Callable[[], None]) -> None:
    """Calls the function, which mounts one, in a child; the test is skipped where that is not possible."""
    code = waited(forked(function))
    if code == 77:
        pytest.skip("mounting a file system needs to be root, with a mount namespace")
    assert code == 0
