"""The fair protocol: how every learner is trained, selected, given its second stage, and judged.

1. Train for a number of batches; every so often look at the negative log-likelihood of the validation images, and keep the state where it was best.
2. Fit the same kind of autoregressive prior to the codes that the learner's own posterior gives the training images.
3. Judge on the test images, by exact enumeration where there are few enough codes, else by importance sampling with a proposal fitted to the frozen
   model: under the prior the model was trained with, and under the fitted prior, which is the headline.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from latentcomp.data.split import Split
from latentcomp.enumeration import enumerable
from latentcomp.evaluate import importance
from latentcomp.evaluate.exact import exact
from latentcomp.evaluate.exact import log_px as exact_log_px
from latentcomp.evaluate.fitting import fit_prior, fit_proposal
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Autoregressive, Prior, Uniform
from latentcomp.train import fit


class Budget(NamedTuple):
    """What every learner is given.

    Attributes:
        updates: batches to train on.
        size: B.
        every: batches between two looks at the validation images.
        prior_updates: updates of the second-stage prior.
        proposal_updates: updates of the importance-sampling proposal (only where codes cannot be enumerated).
        samples: M of importance sampling.
    """

    updates: int = 500
    size: int = 100
    every: int = 50
    prior_updates: int = 300
    proposal_updates: int = 1000
    samples: int = 1000


class Training(NamedTuple):
    """What training was like.

    Attributes:
        curve: one dictionary for each look: step, val_nll (nats), and the metrics of the last step.
        best_step: the look that was kept.
        decoder_evaluations: images decoded in training.
        seconds: wall-clock time of training, without the looks.
    """

    curve: list[dict[str, float]]
    best_step: int
    decoder_evaluations: int
    seconds: float


class Measure(NamedTuple):
    """One number of the table: a mean over the test images, and its standard error where it is a mean; None with a reason where it is infinite."""

    value: float | None
    unit: str
    stderr: float | None = None
    reason: str | None = None


class Judgement(NamedTuple):
    """The numbers, and the model under its fitted prior."""

    measures: dict[str, Measure]
    model: LatentVariableModel


Watch = Callable[[int, dict[str, float]], None]


def default_prior(model: LatentVariableModel) -> Prior:
    """The second stage's prior: a small causal transformer."""
    return Autoregressive(CausalTransformer(model.cardinalities, width=32, layers=1, heads=2))


def train(
    model: LatentVariableModel, learner: Learner, data: Split, optimizer: Optimizer, budget: Budget, seed: int = 0, watch: Watch | None = None
) -> Training:
    """Trains within the budget and leaves model and learner in the state of the best validation look.

    Args:
        model: theta.
        learner: phi.
        data: its validation images choose the state.
        optimizer: over both.
        budget: how long, and how often to look.
        seed: of the order of the data and of all noise.
        watch: called after each look with the step and the look's numbers.

    Raises:
        NonFiniteLoss: names the step, the learner and the term.
    """
    model.check(data.validation)
    learner.seed = seed
    curve: list[dict[str, float]] = []
    best, kept, best_step, looking = math.inf, _state(model, learner), 0, 0.0
    start, decoded = time.perf_counter(), model.decoder_evaluations
    batches = Batches(data.train, min(budget.size, len(data.train)), budget.updates, seed)
    for step, metrics in enumerate(fit(model, learner, batches, optimizer), 1):
        if step % budget.every and step != budget.updates:
            continue
        look, evaluations = time.perf_counter(), model.decoder_evaluations
        nll = validation_nll(model, learner.posterior, data.validation, budget)
        curve.append({"step": step, "val_nll": nll} | {key: float(value) for key, value in metrics.items()})
        if nll < best:
            best, kept, best_step = nll, _state(model, learner), step
        if watch:
            watch(step, curve[-1])
        model.decoder_evaluations = evaluations
        looking += time.perf_counter() - look
    seconds = time.perf_counter() - start - looking
    model.load_state_dict(kept[0])
    learner.load_state_dict(kept[1])
    return Training(curve, best_step, model.decoder_evaluations - decoded, seconds)


def _state(model: LatentVariableModel, learner: Learner) -> tuple[dict[str, Any], dict[str, Any]]:
    return copy.deepcopy(model.state_dict()), copy.deepcopy(learner.state_dict())


@torch.no_grad()
def validation_nll(model: LatentVariableModel, posterior: Posterior, x: Tensor, budget: Budget) -> float:
    """-mean log p(x) under the prior the model is trained with: exact, or importance-weighted with the learner's own posterior."""
    if enumerable(model.cardinalities, len(x)):
        return -float(exact_log_px(model, x).mean())
    return -float(importance.log_px(model, posterior, x, samples=min(100, budget.samples)).log_px.mean())


def judge(
    model: LatentVariableModel,
    learner: Learner,
    data: Split,
    budget: Budget,
    seed: int = 0,
    prior: Callable[[LatentVariableModel], Prior] = default_prior,
    proposal: Callable[[], Posterior] | None = None,
) -> Judgement:
    """All numbers of a trained learner, on the test images.

    Args:
        model: theta.
        learner: its posterior is judged beside the model.
        data: the second stage learns from the training images.
        budget: of the second stage, and of importance sampling.
        seed: of what is fitted and sampled here.
        prior: makes the second stage's prior.
        proposal: makes the proposal of importance sampling; needed where codes cannot be enumerated.

    Raises:
        ValueError: codes cannot be enumerated and there is no proposal.
    """
    torch.manual_seed(seed)
    fitted = fit_prior(model, learner.posterior, data, prior(model), budget.prior_updates, seed=seed)
    own = "uniform_prior" if isinstance(model.prior, Uniform) else "own_prior"
    if enumerable(model.cardinalities, len(data.test)):
        measures = _exact_measures(fitted, learner.posterior, data.test, "")
        measures |= _exact_measures(model, learner.posterior, data.test, f"_{own}")
    else:
        if proposal is None:
            raise ValueError(
                f"{math.prod(model.cardinalities):.3g} code sequences are too many to enumerate, so log p(x) must be estimated: "
                "pass proposal=, a function that makes a posterior with an encoder; the same for every row"
            )
        measures = _estimated_measures(fitted, learner.posterior, proposal(), data, budget, seed, "")
        measures |= _estimated_measures(model, learner.posterior, proposal(), data, budget, seed, f"_{own}")
    measures |= _usage_measures(model, learner.posterior, data.test, seed)
    measures["val_nll"] = Measure(validation_nll(model, learner.posterior, data.validation, budget), "nats")
    measures["val_nll_fitted_prior"] = Measure(validation_nll(fitted, learner.posterior, data.validation, budget), "nats")
    return Judgement(measures, fitted)


def mean(values: Tensor, unit: str = "nats") -> Measure:
    """The mean over images with its standard error; infinite values give None with the reason."""
    values = values.double()
    if values.isinf().any():
        return Measure(None, unit, None, "infinite: the posterior gives probability zero to codes that the exact posterior does not")
    return Measure(float(values.mean()), unit, float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None)


def _exact_measures(model: LatentVariableModel, posterior: Posterior, x: Tensor, suffix: str) -> dict[str, Measure]:
    result = exact(model, posterior, x)
    return {
        f"exact_nll{suffix}": mean(-result.log_px),
        f"own_bound{suffix}": mean(-result.elbo),
        f"kl_q_p{suffix}": mean(result.kl_q_p),
        f"kl_p_q{suffix}": mean(result.kl_p_q),
        f"tv{suffix}": mean(result.tv, "probability"),
    }


def _estimated_measures(
    model: LatentVariableModel, posterior: Posterior, proposal: Posterior, data: Split, budget: Budget, seed: int, suffix: str
) -> dict[str, Measure]:
    proposal = fit_proposal(model, proposal, data, budget.proposal_updates, budget.size, seed=seed)
    fair = importance.log_px(model, proposal, data.test, samples=budget.samples, seed=seed)
    own = importance.log_px(model, posterior, data.test, samples=budget.samples, seed=seed)
    lower, upper = importance.bounds_on_dreams(model, proposal, 100, budget.samples, seed)
    measures = {
        f"iw_nll{suffix}": mean(-fair.log_px),
        f"own_bound{suffix}": own_bound(model, posterior, data.test, budget.samples, seed),
        f"iw_nll_own_posterior{suffix}": mean(-own.log_px),
        f"iw_stderr{suffix}": mean(fair.stderr),
        f"ess{suffix}": mean(fair.ess, "samples"),
        f"pareto_k{suffix}": Measure(float(fair.pareto_k.nan_to_num(neginf=0.0).max()), "shape"),
        f"bound_gap{suffix}": mean(upper - lower),
    }
    return measures


@torch.no_grad()
def own_bound(model: LatentVariableModel, posterior: Posterior, x: Tensor, samples: int, seed: int) -> Measure:
    """-E_q[log p(x, z) - log q(z|x)] from samples of the learner's own posterior, in nats."""
    bounds = []
    for first in range(0, len(x), 64):
        part = x[first : first + 64]
        q = posterior(model, part)
        z = q.sample((max(1, min(samples, 100)),), Noise(seed, 3, torch.arange(first, first + len(part), device=x.device)))
        bounds.append((model.log_joint(part, z) - q.log_prob(z)).mean(0))
    return mean(-torch.cat(bounds))


@torch.no_grad()
def _usage_measures(model: LatentVariableModel, posterior: Posterior, x: Tensor, seed: int) -> dict[str, Measure]:
    z = posterior(model, x).sample((8,), Noise(seed, 2, torch.arange(len(x), device=x.device)))
    used = usage(z, model.codebook.codes)
    return {"perplexity": Measure(used.perplexity, "codes"), "codes_used": Measure(used.used, "share")}
