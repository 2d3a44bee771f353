"""The contract that every learner keeps, on a tiny model whose codes can all be written down."""

import copy
import importlib
import inspect
import pkgutil
from collections import defaultdict
from types import ModuleType

import pytest
import torch

from latentcomp import learners
from latentcomp.batch import Batch
from latentcomp.codes.point import PointCodes
from latentcomp.data.batches import Batches
from latentcomp.enumeration import all_codes
from latentcomp.learners.learner import Learner, trainable
from latentcomp.noise import Noise
from latentcomp.phases import second_stage
from latentcomp.train import NonFiniteLoss, fit
from tests.frequencies import assert_frequencies, positions
from tests.learners.contract import LEARNERS, WHOLE, X, adam, assert_same, batches, made, state, trained
from tests.scenarios import brute_force_log_joint

STEPS = 4


def test_every_learner_is_in_the_suites():
    """What resumes (here), is killed (tests/faults) and is shared by processes (tests/processes) are these two lists: nothing may be missing in both."""
    inside = {type(part) for make in (LEARNERS | WHOLE).values() for part in everything(make())}
    for folder, kind in ((learners, Learner), (second_stage, object)):
        assert defined(folder, kind) <= inside, f"add it to tests/learners/contract.py: {defined(folder, kind) - inside}"


def defined(package: ModuleType, kind: type) -> set[type]:
    """The classes that its modules define and that can be made."""
    names = [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(getattr(package, "__path__", []))] or [package.__name__]
    classes = {c for name in names for c in vars(importlib.import_module(name)).values() if isinstance(c, type) and c.__module__ == name}
    return {c for c in classes if issubclass(c, kind) and not inspect.isabstract(c) and not issubclass(c, tuple) and not getattr(c, "_is_protocol", False)}


def everything(learner: Learner) -> list[object]:
    """A learner, those inside it, and their parts."""
    return [part for module in learner.modules() for part in (module, *vars(module).values())]


@pytest.fixture(params=LEARNERS)
def name(request) -> str:
    """Every learner."""
    return request.param


def log_q_by_loop(q) -> torch.Tensor:
    """log q(z_m|x_b) of all codes, one code at a time: ``(B, M)``."""
    return torch.stack([q.log_prob(z.expand(*q.batch_shape, -1)) for z in all_codes(q.cardinalities)], -1)


def test_its_posterior_sums_to_one_over_all_codes(name):
    model, learner = made(name)
    trained(model, learner, batches(3))
    q = learner.posterior(model, X)
    torch.testing.assert_close(log_q_by_loop(q).exp().sum(-1), torch.ones(len(X)), check_dtype=False)
    torch.testing.assert_close(log_q_by_loop(q), q.table())


def test_its_codes_have_the_probabilities_of_its_posterior(name):
    """Error rate: ``frequencies.LEVEL`` = 1e-6 for each of the three images."""
    model, learner = made(name)
    with torch.no_grad():
        q = learner.posterior(model, X[:3])
    drawn = positions(q.sample((3000,), Noise(5, 0, torch.arange(3))), model.cardinalities)
    for codes, log_q in zip(drawn.T, log_q_by_loop(q), strict=True):
        assert_frequencies(codes, log_q.exp())


def test_its_model_s_log_joint_is_the_sum_written_out(name):
    model, learner = made(name)
    trained(model, learner, batches(3))
    z = all_codes(model.cardinalities).unsqueeze(1).expand(-1, len(X), -1)
    torch.testing.assert_close(model.log_joint(X, z).T, brute_force_log_joint(model, X))


def test_each_update_moves_what_the_loss_names_and_nothing_else(name):
    model, learner = made(name)
    optimizer, terms = adam(model, learner, 0.1), set()
    everything = {n: p for m in (model, learner) for n, p in m.named_parameters(prefix=type(m).__name__)}
    for batch in batches(STEPS):
        for loss in learner.losses(model, batch):
            learns = {id(p) for p in loss.learns}
            before = {n: [p.detach().clone(), *copy.deepcopy(list(optimizer.state[p].values()))] for n, p in everything.items()}
            optimizer.zero_grad(set_to_none=True)
            loss.value.backward(inputs=loss.learns)
            optimizer.step()
            moved = {n for n, p in everything.items() if not all(map(torch.equal, before[n], [p, *optimizer.state[p].values()]))}
            assert moved, f"{loss.term} moves nothing"
            assert all(id(everything[n]) in learns for n in moved)
            assert all(metric.ndim == 0 and not metric.requires_grad for metric in (*loss.metrics.values(),))
            assert not any(rows.requires_grad for rows in loss.statistics.values())
            if loss.term != "VQ" and "+" not in loss.term:
                parts = {"distillation": learner.posterior, "critic": getattr(learner, "critic", None), "second stage": model.prior}
                phi = parts.get(loss.term, getattr(learner, "learner", learner))
                assert learns == {id(p) for p in trainable(model if loss.term == "M-step" else phi)}
            terms.add(loss.term)
        learner.update(model, {})
    assert terms


def test_one_seed_gives_one_run_bit_for_bit(name):
    runs = []
    for seed in (3, 3, 4):
        model, learner = made(name, seed)
        metrics = trained(model, learner, batches(STEPS))
        runs.append(state(model, learner) | {f"{step}.{key}": value for step, m in enumerate(metrics) for key, value in m.items()})
    assert_same(runs[0], runs[1])
    noiseless = isinstance(learner.posterior(model, X), PointCodes) or name == "em_soft"
    assert noiseless or not all(torch.equal(runs[0][key], runs[2][key]) for key in runs[0].keys() & runs[2].keys())


def test_accumulation_makes_the_same_draws_and_the_same_run(name, monkeypatch):
    """Uniform numbers and codes bit for bit, parameters and metrics within 1e-10; batches of five split into three and two."""
    runs = []
    for accumulate in (1, 2):
        model, learner = made(name)
        numbers, codes = record_numbers(monkeypatch), record_codes(monkeypatch, model)
        metrics = trained(model, learner, batches(STEPS), accumulate)
        monkeypatch.undo()
        runs.append((numbers, codes, state(model, learner), metrics))
    (numbers, codes, end, metrics), (numbers_split, codes_split, end_split, metrics_split) = runs
    for whole, split in ((numbers, numbers_split), (codes, codes_split)):
        assert_same({key: torch.cat(rows) for key, rows in whole.items()}, {key: torch.cat(rows) for key, rows in split.items()})
    assert_same(end, end_split, 1e-10)
    for whole, split in zip(metrics, metrics_split, strict=True):
        assert_same(whole, split, 1e-10)


def record_numbers(monkeypatch) -> dict[int, list[torch.Tensor]]:
    """All uniform numbers that are drawn from now on, by the example and step that own them."""
    uniform, record = Noise.uniform, defaultdict(list)

    def recorded(self, sample_shape, *args):
        u = uniform(self, sample_shape, *args)
        for key, row in zip(self._keys.tolist(), u.movedim(len(sample_shape), 0), strict=True):
            record[key].append(row.flatten().double())
        return u

    monkeypatch.setattr(Noise, "uniform", recorded)
    return record


def record_codes(monkeypatch, model) -> dict[str, list[torch.Tensor]]:
    """The codes of all behaviour policies and M-steps, which ask for their log p(x, z), by the image that they are for."""
    log_joint, record = model.log_joint, defaultdict(list)

    def recorded(x, z, c=None):
        for row, image in enumerate(x):
            record[str(image.tolist())].append(z[..., row, :].flatten())
        return log_joint(x, z, c)

    monkeypatch.setattr(model, "log_joint", recorded, raising=False)
    return record


@pytest.mark.parametrize("name", [*LEARNERS, *WHOLE])
def test_a_restored_run_goes_on_bit_for_bit(name):
    first, last = 4, 7
    model, learner = made(name)
    optimizer = adam(model, learner)
    run = fit(model, learner, Batches(X, 5, last, seed=1), optimizer)
    for _ in range(first):
        next(run)
    saved = [copy.deepcopy(part.state_dict()) for part in (model, learner, optimizer)]
    metrics = list(run)
    other = made(name, seed=9)
    for part in other:
        for tensor in part.state_dict().values():
            if isinstance(tensor, torch.Tensor):
                tensor.logical_not_() if tensor.dtype == torch.bool else tensor.add_(1)  # so that what is not restored shows
    again = adam(*other)
    for part, at in zip((*other, again), saved, strict=True):
        part.load_state_dict(at)
    metrics_again = list(fit(*other, Batches(X, 5, last, seed=1).after(first), again))
    assert_same(state(model, learner), state(*other))
    assert other[1].step == last
    assert other[1].seed == 3
    for a, b in zip(metrics, metrics_again, strict=True):
        assert_same(a, b)


def test_a_loss_that_is_not_finite_loses_nothing(name):
    model, learner = made(name)
    good, bad = batches(3)[:2], Batch(X[:4].where(X[:4] > 1, torch.nan), index=torch.arange(4))
    optimizer, ends = adam(model, learner), []
    parameters = dict(model.named_parameters()) | {f"phi.{n}": p for n, p in learner.named_parameters()}
    optimizer.register_step_post_hook(lambda *_: ends.append({n: p.detach().clone() for n, p in parameters.items()}))
    run = fit(model, learner, [*good, bad], optimizer)
    for _ in good:
        next(run)
    if name.startswith("second_stage"):  # which sees codes alone, and codes are numbers
        next(m for m in model.prior.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(lambda *out: out[-1] * torch.nan)
    ends.append({n: p.detach().clone() for n, p in parameters.items()})
    buffers = {f"{i}.{n}": b.clone() for i, m in enumerate((model, learner)) for n, b in m.named_buffers()}
    method = "StraightThrough|VQGAN" if name.startswith("vq") else type(learner).__name__
    with pytest.raises(NonFiniteLoss, match=rf"the loss of the (E-step|M-step|E\+M-step|VQ|second stage) of ({method}) is nan at step 2; its"):
        next(run)
    assert_same(ends[-1], {n: p.detach() for n, p in parameters.items()})
    assert_same(buffers, {f"{i}.{n}": b for i, m in enumerate((model, learner)) for n, b in m.named_buffers()})
    assert learner.step == 2
    assert all(p.isfinite().all() for p in parameters.values())
