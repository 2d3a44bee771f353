"""In float32 two processes and one make the same curves, but for the order in which sums are rounded.

The noise of float32 is what another order of the rows of every batch does: it changes nothing but how sums are rounded, since all draws follow the rows. What
float32 does in every order alike is no noise: a code whose use lies on the threshold of a restart is dead in one of float32 and float64 and alive in the other,
and their curves then part for a reason that no number of processes has anything to do with. So curves are held against the mean of those of one process.
"""

import functools
import math

import pytest
import torch
from scipy.stats import t
from torch import Tensor

from latentcomp import processes
from tests.processes import jobs
from tests.processes.jobs import OWN
from tests.processes.several import outcomes

pytestmark = pytest.mark.usefixtures("unchecked")
ERROR_RATE = 1e-3  # of each test
COARSEST = 1e-5  # the noise, relative to the curves, beyond which one of the orders made another run and anything would pass; float32 rounds by 6e-8
ORDERS = range(1, 11)
QUICK = ("vq_ema_restart",)
SLOW = ("wake_sleep", "gflownet_replay", "vqgan_critic", "second_stage", "residual_ema")
Curves = dict[str, Tensor]
SUMMED = processes.summed


def mean(runs: list[Curves]) -> Curves:
    """Of each metric of each step."""
    return {key: torch.stack([run[key] for run in runs]).mean(0) for key in runs[0]}


def distance(curves: Curves, centre: Curves) -> float:
    """log of the distance of all metrics of all steps, each relative to its own size over the run."""
    assert curves.keys() == centre.keys()
    squares = [((curves[key] - centre[key]).square().mean() / centre[key].square().mean().clamp_min(1e-12)) for key in centre]
    return 0.5 * math.log(float(sum(squares)))


@functools.cache
def one_process(name: str) -> tuple[Curves, float]:
    """The mean of the curves of ten orders, and the upper prediction limit of the distance of one run more, log-normal to the eye.

    Each run is held against the mean of the others, as the run more is against the mean of all; that of nine lies 0.5 % farther away than that of ten.
    """
    runs = [jobs.in_float32(None, f"{name}*{order}") for order in ORDERS]
    own = torch.tensor([distance(run, mean(runs[:i] + runs[i + 1 :])) for i, run in enumerate(runs)], dtype=torch.float64)
    limit = float(own.mean() + t.ppf(1 - ERROR_RATE, len(own) - 1) * own.std() * math.sqrt(1 + 1 / len(own)))
    print(f"{name}: one process {own.exp().tolist()}, limit {math.exp(limit):.2e}")
    return mean(runs), limit


def two_processes(name: str, folder) -> float:
    """The distance of the curves of two processes, in an order more, from the mean of those of one."""
    first, second = outcomes(folder, [f"{OWN}in_float32/{name}*0"])[f"{OWN}in_float32/{name}*0"]
    assert all(torch.equal(first[key], second[key]) for key in first), "both processes log the same"
    return distance(first, one_process(name)[0])


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_curves_of_two_processes_differ_from_those_of_one_by_no_more_than_rounding(name, tmp_path):
    """Error rate: ``ERROR_RATE``."""
    _, limit = one_process(name)
    found = two_processes(name, tmp_path)
    print(f"{name}: two processes {math.exp(found):.2e}")
    assert found <= limit < math.log(COARSEST), "a noise beyond which anything would pass says nothing"


def narrow(tensors: list[Tensor]) -> list[Tensor]:
    """Sums that travel in 16 bits."""
    return [total.to(tensor.dtype) for total, tensor in zip(SUMMED([tensor.bfloat16() for tensor in tensors]), tensors, strict=True)]


def forgetful(tensors: list[Tensor]) -> list[Tensor]:
    """Sums of which the last number is each process's own, as if a bucket ended one too early; short ones, which count and flag, are whole."""
    pairs = zip(SUMMED(tensors), tensors, strict=True)
    return [torch.cat([total.flatten()[:-1], own.flatten()[-1:]]).view_as(total) if total.numel() > 9 else total for total, own in pairs]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [narrow, forgetful])
@pytest.mark.parametrize("name", ["vq_ema_restart", "residual_ema"])
def test_a_wrong_exchange_lies_beyond_any_noise_that_is_let_pass(name, fault, tmp_path, monkeypatch):
    """So the test above finds it."""
    _, limit = one_process(name)  # before the fault, which would be one process's, too
    monkeypatch.setattr(processes, "summed", fault)  # the processes are forked from here
    assert two_processes(name, tmp_path) > max(math.log(COARSEST), limit)
