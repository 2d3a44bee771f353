"""Fabric under the loop: precision and clipping in one process (several: ``tests/processes``)."""

import math

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.engine import Engine, _move_states
from latentcomp.train import NonFiniteLoss, fit
from tests.learners.contract import LEARNERS, X, adam, assert_same, batches, made, state, trained

lightning_fabric = pytest.importorskip("lightning_fabric")

MIXED = {"em_soft", "vq_ema_restart", "gumbel_hard", "reweighted_wake_sleep", "gflownet_replay", "gflownet_sub_trajectories", "vimco"}


def fabric(precision: str = "64-true"):
    """Of one process on the CPU."""
    return lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision)


def single(name: str):
    """The tiny model and a learner in float32."""
    model, learner = made(name)
    return model.float(), learner.float()


def test_in_the_same_precision_fabric_changes_nothing():
    model, learner = made("gflownet_replay")
    metrics = trained(model, learner, batches(3))
    other, again = made("gflownet_replay")
    theirs = list(fit(other, again, batches(3), adam(other, again), fabric=fabric()))
    assert_same(state(model, learner), state(other, again))
    assert_same(metrics[-1], theirs[-1])


def test_fabric_s_precision_is_the_model_s():
    model, learner = single("wake_sleep")
    list(fit(model, learner, batches(1), adam(model, learner), fabric=fabric()))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_an_optimiser_s_memories_follow_its_parameters_and_its_counters_do_not(shape, fused):
    """As ``Optimizer.load_state_dict`` would have them, of which a parameter without axes, whose counter has the shape of its memories, is the hard case."""

    def stepped() -> torch.optim.Adam:
        parameter = torch.nn.Parameter(torch.ones(shape))
        optimizer = torch.optim.Adam([parameter], 0.1, fused=fused)
        parameter.grad = torch.ones(shape)
        optimizer.step()
        parameter.data = parameter.data.double()
        return optimizer

    ours, theirs = stepped(), stepped()
    _move_states([ours])
    theirs.load_state_dict(theirs.state_dict())
    (own,), (other,) = ours.state.values(), theirs.state.values()
    assert own.keys() == other.keys() >= {"step", "exp_avg"}
    assert {key: value.dtype for key, value in own.items()} == {key: value.dtype for key, value in other.items()}
    assert (own["step"].dtype, own["exp_avg"].dtype) == (torch.float32, torch.float64)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in MIXED else pytest.mark.slow) for name in LEARNERS])
def test_mixed_precision_keeps_losses_and_states_in_float32(name):
    """Networks multiply in bfloat16 (three digits), while log-probabilities, losses, distances and running means stay in float32: the first step's agree."""
    ends = []
    for precision in ("32-true", "bf16-mixed"):
        model, learner = single(name)
        dtypes = set()
        for linear in (m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear)):
            linear.register_forward_hook(lambda _, __, output, dtypes=dtypes: dtypes.add(output.dtype))
        data = [Batch(batch.x.float(), index=batch.index) for batch in batches(2)]
        metrics = list(fit(model, learner, data, adam(model, learner), fabric=fabric(precision)))
        assert dtypes >= {torch.bfloat16 if precision == "bf16-mixed" else torch.float32}
        assert {value.dtype for value in metrics[0].values()} == {torch.float32}
        assert all(t.dtype != torch.bfloat16 for t in state(model, learner).values())
        ends.append((metrics[0], state(model, learner)))
    (metrics, end), (rough, rough_end) = ends
    if "m_loss" in metrics and name.startswith("vq"):  # no sampling: a code that flips changes the rest
        torch.testing.assert_close(metrics["m_loss"], rough["m_loss"], rtol=0.02, atol=0)
        for key in ("0.codebook.counts", "0.codebook.usage"):
            if key in end:
                torch.testing.assert_close(end[key].sum(), rough_end[key].sum(), rtol=1e-5, atol=0, msg="counts are whole numbers, not rounded to bfloat16")


def test_mixed_precision_rounds_no_data():
    """Grey values, of which bfloat16 tells few apart, in batches as in what is looked at; float64 makes them its own."""
    grey = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(Engine(fabric("bf16-mixed")).placed(grey), grey)
    ((batch, _),) = Engine(fabric("bf16-mixed")).shared([Batch(grey.view(4, 1, 8, 8))])
    assert torch.equal(batch.x.flatten(), grey)
    assert Engine(fabric("64-true")).placed(grey).dtype == torch.float64


def test_a_precision_that_would_break_promises_is_refused():
    model, learner = single("vq_gradient")
    with pytest.raises(ValueError, match="'bf16-true' is not one of 32-true, 64-true, bf16-mixed: .* use bf16-mixed"):
        next(fit(model, learner, batches(1), adam(model, learner), fabric=fabric("bf16-true")))


def test_processes_that_were_not_launched_are_named():
    model, learner = single("vq_gradient")
    two = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    with pytest.raises(ValueError, match=r"for 2 processes, and 1 are running: call fabric.launch\(\)"):
        next(fit(model, learner, batches(1), adam(model, learner), fabric=two))


def test_a_long_gradient_is_shortened_and_a_short_one_is_not():
    def moved(clip: float) -> torch.Tensor:
        model, learner = made("vq_gradient")
        before = torch.cat([p.detach().flatten() for p in (*model.parameters(), *learner.parameters())])
        optimizer = torch.optim.SGD([*model.parameters(), *learner.parameters()], 1.0)
        list(fit(model, learner, batches(1), optimizer, clip=clip))
        return before - torch.cat([p.detach().flatten() for p in (*model.parameters(), *learner.parameters())])

    free = moved(math.inf)
    norm = float(free.norm())
    torch.testing.assert_close(moved(norm / 3), free / 3, atol=1e-6, rtol=0)
    assert torch.equal(moved(norm * 1.01), free)


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update():
    model, learner = made("em_soft")
    next(iter(model.decoder.parameters())).register_hook(lambda gradient: gradient * math.inf)
    before = state(model, learner)
    with pytest.raises(NonFiniteLoss, match=r"the gradient of the E?\+?M-step of EM is not finite .* at step 0; .* positions 100, 105, 110") as caught:
        list(fit(model, learner, batches(2), adam(model, learner)))
    assert_same(before, state(model, learner))
    assert (caught.value.step, caught.value.learner, caught.value.term) == (0, "EM", "M-step")
    assert torch.equal(caught.value.batch.x, batches(1)[0].x)


def test_the_offending_micro_batch_travels_with_the_error():
    model, learner = made("vq_ema")
    x = X[:6].clone()
    x[4] = torch.nan
    with pytest.raises(NonFiniteLoss, match=r"positions 13, 14") as caught:
        list(fit(model, learner, [Batch(X[:6]), Batch(x, index=torch.arange(10, 16))], adam(model, learner), accumulate=2))
    assert caught.value.batch.index.tolist() == [13, 14, 15]
