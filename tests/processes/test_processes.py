"""Two processes on the CPU make the run of one, and stop together."""

import re

import pytest
import torch

from tests.learners.contract import LEARNERS, WHOLE, assert_same
from tests.processes import jobs
from tests.processes.jobs import OWN
from tests.processes.several import outcomes

QUICK = {  # with the kind of its batches
    "vq_ema_restart": "whole", "gflownet_threshold": "shared", "gflownet_replay": "split", "wake_sleep": "whole", "vqgan": "shared", "lfq": "whole",
    "residual_ema": "shared", "second_stage": "split", "second_stage_masked": "whole", "vimco": "shared", "memoised_wake_sleep": "split",
    "monte_carlo_em": "shared", "warm_start": "whole",
}  # fmt: skip
BROKEN = ("nan", "lambda", "few", "ends", "parts")
SMALL = [f"{OWN}trained/{name}*3*{kind}" for name, kind in QUICK.items()]
OTHERS = [f"{OWN}communicated", f"{OWN}normalised/batch", f"{OWN}normalised/act"]
ADVERSARIAL = [f"{OWN}adversarial/6", f"{OWN}adversarial/5"]


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> dict[str, list]:
    """What two processes did."""
    pytest.importorskip("lightning_fabric")
    plain = [f"{OWN}plain_norm/{mode}" for mode in ("train", "frozen")]
    others = [f"{OWN}laid_out", f"{OWN}narrow", f"{OWN}in_sixteen_bits", *plain, *(f"{OWN}broken/{how}" for how in BROKEN)]
    return outcomes(tmp_path_factory.mktemp("processes"), [*SMALL, *OTHERS, *ADVERSARIAL, *others])


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


def test_what_is_exchanged_keeps_its_place_whatever_its_layout(both):
    first, second = both[f"{OWN}laid_out"]
    assert isinstance(second, dict), second
    assert_same(first, second)
    assert torch.equal(first["kernel"], torch.arange(12.0).view(3, 1, 2, 2))
    for i, times in enumerate((2, 1)):
        wanted = times * torch.arange(24.0).view(3, 2, 2, 2)
        assert torch.equal(first[f"gradient.{i}"], wanted)
        assert torch.equal(first[f"weight.{i}"], -wanted)


def test_moments_of_bfloat16_are_counted_and_summed_in_float32(both):
    x = jobs.ROWS.bfloat16().double().repeat(1, 1, 9, 9)
    for result in both[f"{OWN}narrow"]:
        assert int(result["number"]) == 7 * 72 * 72, "which bfloat16 cannot hold"
        torch.testing.assert_close(result["mean"], x.mean((0, 2, 3), keepdim=True).float())
        torch.testing.assert_close(result["variance"], x.var((0, 2, 3), keepdim=True, correction=0).float())


def test_a_shared_norm_in_sixteen_bits_takes_its_moments_in_float32(both):
    """Forward, backward and memory against float64, within the rounding of bfloat16 of what is rounded: input, output and gradients."""
    x = (jobs.ROWS.float() + 4).bfloat16().double().requires_grad_()
    norm, scale = torch.nn.BatchNorm2d(2).double(), torch.linspace(0.5, 1.5, len(x)).double().view(-1, 1, 1, 1)
    y = norm(x)
    (y.pow(3) * scale).mean().backward()
    first, second = both[f"{OWN}in_sixteen_bits"]
    assert_same(first, second)
    assert first["y"].dtype == torch.bfloat16
    epsilon = torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(first["y"].double(), y.detach(), rtol=epsilon, atol=epsilon)
    torch.testing.assert_close(first["dx"].double(), x.grad, rtol=4 * epsilon, atol=4 * epsilon * float(x.grad.abs().max()))
    torch.testing.assert_close(first["mean"], norm.running_mean.float())
    torch.testing.assert_close(first["variance"], norm.running_var.float())


def test_a_plain_batch_norm_is_refused_by_name_where_it_would_take_the_moments_of_a_share(both):
    refused = r"learner\.critic\.network\.last is a BatchNorm2d, whose moments would be those of each of the 2 processes. own rows: use latentcomp\.nn\.Shared"
    assert all(re.match(refused, text) for text in both[f"{OWN}plain_norm/train"])
    assert both[f"{OWN}plain_norm/frozen"] == ["1 steps"] * 2
    assert jobs.plain_norm(None, "train") == "1 steps", "one process sees all rows"


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
