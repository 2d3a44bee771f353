"""Two processes on the CPU make the run of one, and stop together."""

import re

import pytest
import torch

from tests.learners.contract import LEARNERS, WHOLE, assert_same
from tests.processes import jobs
from tests.processes.jobs import OWN
from tests.processes.several import outcomes

QUICK = ("vq_ema_restart", "gflownet_threshold", "gflownet_replay", "wake_sleep", "vqgan", "lfq", "residual_ema", "second_stage")
KINDS = ("whole", "shared", "split", "whole", "shared", "whole", "shared", "split")  # of the batches
BROKEN = ("nan", "lambda", "few", "ends", "parts")
SMALL = [f"{OWN}trained/{name}*3*{kind}" for name, kind in zip(QUICK, KINDS, strict=True)]
OTHERS = [f"{OWN}communicated", f"{OWN}normalised/batch", f"{OWN}normalised/act"]
ADVERSARIAL = [f"{OWN}adversarial/6", f"{OWN}adversarial/5"]


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, list]:
    """What two processes did."""
    pytest.importorskip("lightning_fabric")
    return outcomes(tmp_path_factory.mktemp("processes"), [*SMALL, *OTHERS, *ADVERSARIAL, f"{OWN}narrow", *(f"{OWN}broken/{how}" for how in BROKEN)])


def alone(name: str) -> dict[str, torch.Tensor]:
    """What one process does."""
    function, _, argument = name.removeprefix(OWN).partition("/")
    return getattr(jobs, function)(None, *([argument] if argument else []))


def assert_the_run_of_one(result: list, name: str) -> None:
    first, second = result
    assert isinstance(first, dict), first
    assert_same(first, second)
    assert_same(first, alone(name), 1e-9)


@pytest.mark.parametrize("name", [*SMALL, *ADVERSARIAL])
def test_two_processes_end_where_one_does(both, name):
    """Parameters, buffers, the optimiser's memories and metrics within 1e-9 in float64; between the two, bit for bit. Batches of five are shared by two and
    three rows.
    """
    assert_the_run_of_one(both[name], name)


@pytest.mark.parametrize("name", OTHERS)
def test_exchanges_are_those_of_the_whole_batch(both, name):
    if not name.endswith("communicated"):
        assert_the_run_of_one(both[name], name)
        return
    first, second = both[name]
    assert_same(first, second)
    x = jobs.ROWS
    assert torch.equal(first["gathered.double"], x), "rows arrive bit for bit, in order"
    assert torch.equal(first["gathered.half"], x.half())
    assert torch.equal(first["gathered.bool"], x[:, 0, 0, 0] > 0.5)
    assert first["gathered.long"].tolist() == [0, 1, 2, 3, 10, 11, 12]
    assert first["gathered.none"].shape == (0, 2, 8, 8)
    torch.testing.assert_close(first["mean"], x.mean(0))
    torch.testing.assert_close(first["sum"], x.sum(0).float())
    assert first["count"].tolist() == [8.0] * 3


def test_batch_norm_alone_is_torch_s(both):
    norm = torch.nn.BatchNorm2d(2).double()
    x = jobs.ROWS.clone().requires_grad_()
    norm(x).pow(3).mean().backward()
    (result, _) = both[f"{OWN}normalised/batch"]
    torch.testing.assert_close(result["dx"], x.grad)
    torch.testing.assert_close(result["buffer.running_var"], norm.running_var)
    torch.testing.assert_close(result["buffer.running_mean"], norm.running_mean)


def test_moments_of_bfloat16_are_counted_and_summed_in_float32(both):
    x = jobs.ROWS.bfloat16().double().repeat(1, 1, 9, 9)
    for result in both[f"{OWN}narrow"]:
        assert int(result["number"]) == 7 * 72 * 72, "which bfloat16 cannot hold"
        torch.testing.assert_close(result["mean"], x.mean((0, 2, 3), keepdim=True).float())
        torch.testing.assert_close(result["variance"], x.var((0, 2, 3), keepdim=True, correction=0).float())


STOPS = {
    "nan": (
        r"NonFiniteLoss: the loss of the VQ of StraightThrough is not finite \(.*loss [\d.]+ here\) at step 1 in rank 1 of 2; .* the batch that rank 1 names",
        r"NonFiniteLoss: the loss of the VQ of StraightThrough is nan at step 1 in rank 1 of 2; .* this batch: positions 106, 111",
    ),
    "lambda": (  # which the nan of one rank's gradient makes nan in both
        r"NonFiniteLoss: the loss of the VQ of VQGAN is not finite \(.*loss nan here\) at step 1 in rank 1 of 2; .*'lambda': nan.* the batch that rank 1 names",
        r"NonFiniteLoss: the loss of the VQ of VQGAN is nan at step 1 in rank 1 of 2; .* this batch: positions 106, 111",
    ),
    "few": ("ValueError: a batch of 1 cannot be shared by 2",) * 2,
    "ends": ("ValueError: the batches of some of the 2 processes have ended",) * 2,
    "parts": (r"ValueError: the 2 processes have \[3, 2\] rows of this batch, which accumulate=3 .*: use accumulate=2 or less",) * 2,
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_stops_one_process_stops_both_after_the_same_step(both, how):
    """Each tries to take three steps and takes one."""
    for pattern, text in zip(STOPS[how], both[f"{OWN}broken/{how}"], strict=True):
        assert re.match(f"1 1 {pattern}", text), text


@pytest.mark.slow
def test_every_learner_ends_where_one_process_does_after_thirty_steps(tmp_path):
    names = [f"{OWN}trained/{name}*30*{kind}" for name, kind in zip(LEARNERS, ["whole", "shared", "split"] * len(LEARNERS), strict=False)]
    names += [f"{OWN}trained/{name}*30*{kind}" for name, kind in zip(WHOLE, ["whole", "shared"] * len(WHOLE), strict=False)]
    for name, result in outcomes(tmp_path, names).items():
        assert_the_run_of_one(result, name)
