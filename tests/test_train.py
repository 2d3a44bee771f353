"""The one loop, with learners made up for the occasion."""

import math

import pytest
import torch
from torch import nn

from latentcomp.batch import Batch
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.learners.em import EM
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.learners.learner import Learner, Loss
from latentcomp.posteriors.exact import Exact
from latentcomp.train import NonFiniteLoss, fit
from tests.learners.contract import adam, assert_same, batches, made, state
from tests.scenarios import posterior, tiny_images, tiny_model

X = tiny_images(5)


class Two(Learner):
    """First a descends its distance to the mean pixel, then b its distance to the new a. Records what it is handed."""

    def __init__(self) -> None:
        super().__init__(Exact())
        self.a, self.b = (nn.Parameter(torch.tensor(value).double()) for value in (0.0, 5.0))
        self.handed = []

    def losses(self, model, batch):
        """Two updates; the first carries statistics."""
        pixel = batch.x.mean((1, 2, 3))
        yield Loss("first", (self.a - pixel).square().mean(), [self.a], {"pixel": pixel.mean()}, {"index": batch.positions})
        yield Loss("second", (self.b - self.a).square(), [self.b], {"a": self.a.detach()}, {"index": -batch.positions})

    def update(self, model, statistics):
        """Keeps the rows."""
        self.handed.append(statistics)
        super().update(model, statistics)


def sgd(learner: Two, model, rate: float = 0.5) -> torch.optim.SGD:
    return torch.optim.SGD([*model.parameters(), *learner.parameters()], rate)


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5, 9])
def test_updates_metrics_and_statistics_are_those_of_the_whole_batch(accumulate):
    model, learner = tiny_model(), Two()
    (metrics,) = fit(model, learner, [Batch(X, index=torch.tensor([7, 5, 3, 1, 9]))], sgd(learner, model), accumulate)
    pixel = X.mean()
    torch.testing.assert_close(learner.a.detach(), pixel)  # a step of 1/2 on a square lands on the mean
    torch.testing.assert_close(learner.b.detach(), pixel)  # and b on what a has just become
    assert_same(metrics, {"pixel": pixel, "a": pixel}, 1e-12)
    assert [rows["index"].tolist() for rows in learner.handed] == [[7, 5, 3, 1, 9, -7, -5, -3, -1, -9]]
    assert learner.step == 1


def test_a_loss_gives_gradients_to_what_it_names_and_none_to_others():
    model, learner = tiny_model(), Two()
    seen = []
    optimizer = sgd(learner, model)
    optimizer.register_step_pre_hook(lambda *_: seen.append({n: p.grad is not None for n, p in learner.named_parameters()}))
    list(fit(model, learner, [Batch(X)], optimizer))
    assert seen == [{"a": True, "b": False}, {"a": False, "b": True}]
    assert all(p.grad is None for p in model.parameters())


def test_one_dictionary_a_step_and_an_end_with_the_batches():
    model, learner = tiny_model(), Two()
    run = fit(model, learner, (Batch(X) for _ in range(3)), sgd(learner, model))
    assert len(list(run)) == 3
    assert learner.step == 3


def test_a_data_set_without_positions_counts_the_rows_of_the_batch():
    model, learner = tiny_model(), Two()
    list(fit(model, learner, [Batch(X)], sgd(learner, model), accumulate=2))
    assert learner.handed[0]["index"][:5].tolist() == [0, 1, 2, 3, 4]


def test_several_optimisers_share_the_parameters():
    model, learner = made("reinforce")
    one = adam(model, learner)
    list(fit(model, learner, batches(2), one))
    other_model, other = made("reinforce")
    list(fit(other_model, other, batches(2), [torch.optim.Adam(part.parameters(), 0.01, eps=one.defaults["eps"]) for part in (other_model, other)]))
    assert_same(state(model, learner), state(other_model, other))


def test_a_parameter_that_no_optimiser_holds_is_named():
    model, learner = made("reinforce")
    with pytest.raises(ValueError, match=r"no optimiser holds model\.codebook\.weight, .*model\.decoder.*: add them to one, or freeze them"):
        next(fit(model, learner, batches(1), torch.optim.Adam(learner.parameters())))
    with pytest.raises(ValueError, match=r"no optimiser holds learner\.posterior\.trunk"):
        next(fit(model, learner, batches(1), torch.optim.Adam(model.parameters())))
    model.requires_grad_(False)
    next(fit(model, learner, batches(1), torch.optim.Adam(learner.parameters())))


@pytest.mark.parametrize(
    ("x", "error", "named"),
    [
        (torch.zeros(5, 1, 3, 2).double(), ValueError, r"must have shape \(B, 1, 2, 3\).*got \(5, 1, 3, 2\)"),
        (torch.zeros(5, 2, 3).double(), ValueError, r"must have shape \(B, 1, 2, 3\).*got \(5, 2, 3\)"),
        (torch.full((5, 1, 2, 3), 0.5).double(), ValueError, "pixels 0 and 1.*from 0.5 to 0.5: binarise them"),
        (torch.full((5, 1, 2, 3), math.nan).double(), ValueError, "not finite"),
        (torch.zeros(5, 1, 2, 3, dtype=torch.long), TypeError, "floating type, got torch.int64: convert them"),
        (torch.zeros(0, 1, 2, 3).double(), ValueError, "the batch is empty"),
    ],
)
def test_images_that_the_model_cannot_explain_stop_the_run_before_its_first_update(x, error, named):
    model, learner = made("gflownet_log_variance")
    before = state(model, learner)
    with pytest.raises(error, match=named):
        next(fit(model, learner, [Batch(x)], adam(model, learner)))
    assert_same(before, state(model, learner))
    assert learner.step == 0


class Broken(Two):
    """Its second loss is not finite for an image at position 3."""

    def losses(self, model, batch):
        """As before, but for the second."""
        first, second = super().losses(model, batch)
        yield first
        bad = math.inf if 3 in batch.positions else 0.0
        yield second._replace(value=second.value + bad, metrics={"a": self.a.detach(), "excess": torch.tensor(bad)})


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_non_finite_loss_names_step_learner_term_and_parts_and_keeps_the_last_good_update(accumulate):
    """Also when an earlier micro-batch of the same update was fine."""
    model, learner = tiny_model(), Broken()
    run = fit(model, learner, [Batch(X, index=torch.arange(start, start + 5)) for start in (10, 20, 0)], sgd(learner, model), accumulate)
    next(run), next(run)
    learner.a.data.fill_(9.0)
    b = learner.b.detach().clone()
    message = r"the loss of the second of Broken is inf at step 2; its parts are \{'a': 0\.\d+, 'excess': inf\}\. .*Lower the learning rate"
    with pytest.raises(NonFiniteLoss, match=message):
        next(run)
    torch.testing.assert_close(learner.a.detach(), X.mean())  # the first update of the step was good
    assert torch.equal(learner.b.detach(), b)
    assert learner.step == len(learner.handed) == 2


def test_a_learner_whose_e_step_blows_up_keeps_everything():
    model, learner = made("gflownet_amortised_log_z")
    optimizer = adam(model, learner)
    list(fit(model, learner, batches(2), optimizer))
    learner.objective.log_z.initial = math.nan
    before = state(model, learner)
    with pytest.raises(NonFiniteLoss, match=r"loss of the E-step of GFlowNetEM is nan at step 2; its parts are .*'e_loss': nan"):
        next(fit(model, learner, batches(3, start=2), optimizer))
    assert_same(before, state(model, learner))
    assert learner.step == 2


def test_running_means_are_refused_where_nothing_feeds_them():
    model = tiny_model(codebook=EMACodebook)
    learner = GFlowNetEM(posterior("factorised"))
    with pytest.raises(ValueError, match="EMACodebook learns from the codes that vector quantisation assigns, and GFlowNetEM assigns none.*Codebook"):
        next(fit(model, learner, [Batch(X)], adam(model, learner)))


def test_em_raises_the_likelihood():
    model, learner = tiny_model(), EM()
    values = [float(metrics["m_loss"]) for metrics in fit(model, learner, [Batch(X)] * 60, adam(model, learner, 0.05))]
    assert values[-1] < values[0] - 1
