"""In float32 two processes and one make the same curves, but for the order in which sums are rounded."""

import math

import pytest
import torch
from scipy.stats import t

from tests.processes import jobs
from tests.processes.jobs import OWN
from tests.processes.several import outcomes

pytestmark = pytest.mark.usefixtures("unchecked")
ERROR_RATE = 1e-3  # of each test
ORDERS = range(1, 11)
QUICK = ("vq_ema_restart", "wake_sleep")
SLOW = ("gflownet_replay", "vqgan_critic", "second_stage", "residual_ema")


def distance(curves: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """log of the distance of all metrics of all steps, each relative to its own size over the run."""
    assert curves.keys() == exact.keys()
    squares = [((curves[key] - exact[key]).square().mean() / exact[key].square().mean().clamp_min(1e-12)) for key in exact]
    return 0.5 * math.log(float(sum(squares)))


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_curves_of_two_processes_differ_from_those_of_one_by_no_more_than_rounding(name, tmp_path):
    """The noise of float32 is what another order of the rows of every batch does: it changes nothing but how sums are rounded, since all draws follow the rows.

    Ten runs of one process in ten orders, split in two as the processes do, say how far float32 lies from float64, log-normally to the eye. The
    run of two processes, in an order more, must lie below the upper prediction limit for one more such run. Error rate: ``ERROR_RATE``.
    """
    exact = jobs.in_float32(None, f"{name}*double")
    own = torch.tensor([distance(jobs.in_float32(None, f"{name}*{order}"), exact) for order in ORDERS])
    limit = float(own.mean() + t.ppf(1 - ERROR_RATE, len(own) - 1) * own.std() * math.sqrt(1 + 1 / len(own)))
    first, second = outcomes(tmp_path, [f"{OWN}in_float32/{name}*0"])[f"{OWN}in_float32/{name}*0"]
    assert all(torch.equal(first[key], second[key]) for key in first), "both processes log the same"
    print(f"{name}: one process {own.exp().tolist()}, two {math.exp(distance(first, exact)):.2e}, limit {math.exp(limit):.2e}")
    assert distance(first, exact) <= limit < math.log(0.01), "a noise beyond which anything would pass says nothing"
