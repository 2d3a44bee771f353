"""The fair protocol: how every learner is trained, selected, given its second stage, and judged.

1. Train for a number of batches; every so often look at the negative log-likelihood of the validation images, and keep the state where it was best
   (:mod:`latentcomp.evaluate.training`).
2. Fit the same kind of autoregressive prior to the codes that the learner's own posterior gives the training images.
3. Judge on the test images, by exact enumeration where there are few enough codes, else by importance sampling with a proposal fitted to the frozen
   model: under the prior the model was trained with, and under the fitted prior, which is the headline.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from latentcomp.data.split import Split
from latentcomp.enumeration import enumerable
from latentcomp.evaluate import importance
from latentcomp.evaluate.exact import exact
from latentcomp.evaluate.fitting import fit_prior, fit_proposal
from latentcomp.evaluate.training import Budget, validation_nll
from latentcomp.evaluate.usage import usage
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from latentcomp.posteriors.posterior import Posterior
from latentcomp.priors import Autoregressive, Prior, Uniform

GAP = 0.1  # nats between the bounds of log p(x) on dreams, above which an estimate is flagged
FLAG = f"flagged: on images that the model dreamt, lower and upper bounds of log p(x) differ by more than {GAP} nats"


class Measure(NamedTuple):
    """One number of the table: a mean over the test images, and its standard error where it is a mean; None with a reason where there is none.

    A number that is not to be trusted carries the reason, too.
    """

    value: float | None
    unit: str
    stderr: float | None = None
    reason: str | None = None


Also = Callable[[LatentVariableModel, Learner, Split], dict[str, Measure]]


class Judgement(NamedTuple):
    """The numbers, and the model under its fitted prior."""

    measures: dict[str, Measure]
    model: LatentVariableModel


def default_prior(model: LatentVariableModel) -> Prior:
    """The second stage's prior: a small causal transformer."""
    return Autoregressive(CausalTransformer(model.cardinalities, width=32, layers=1, heads=2))


def judge(
    model: LatentVariableModel,
    learner: Learner,
    data: Split,
    budget: Budget,
    seed: int = 0,
    prior: Callable[[LatentVariableModel], Prior] = default_prior,
    proposal: Callable[[], Posterior] | None = None,
    also: Also | None = None,
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
        also: further measures of the model under its fitted prior, such as :class:`~latentcomp.evaluate.images.ImageMeasures`.

    Raises:
        ValueError: codes cannot be enumerated and there is no proposal.
    """
    torch.manual_seed(seed)
    model.eval()
    learner.eval()
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
        fair = fit_proposal(fitted, proposal(), budget.proposal_updates, budget.size, seed=seed)
        measures = _estimated_measures({"": fitted, f"_{own}": model}, learner.posterior, fair, data.test, budget, seed)
    measures |= _usage_measures(model, learner.posterior, data.test, seed)
    measures |= {} if also is None else also(fitted, learner, data)
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
    models: dict[str, LatentVariableModel], posterior: Posterior, proposal: Posterior, x: Tensor, budget: Budget, seed: int
) -> dict[str, Measure]:
    """Of one decoder under several priors, by the suffix of the measures' names; the samples are shared, and come from the first model's proposal."""
    first, priors, decoded = next(iter(models.values())), [model.prior for model in models.values()], {}
    estimates = {}
    for name, q, samples in (("fair", proposal, budget.samples), ("own", posterior, min(budget.samples, budget.own_samples))):
        before = first.decoder_evaluations
        estimates[name] = importance.log_px_under(first, priors, q, x, samples=samples, seed=seed)
        decoded[name] = (first.decoder_evaluations - before) / len(x)
    measures: dict[str, Measure] = {}
    for (suffix, model), fair, own in zip(models.items(), estimates["fair"], estimates["own"], strict=True):
        lower, upper = importance.bounds_on_dreams(first, proposal, budget.dreams, budget.samples, seed, dreamer=model)
        gap = mean(upper - lower)
        flag = FLAG if gap.value is None or gap.value > GAP else None
        measures |= {
            f"iw_nll{suffix}": mean(-fair.log_px)._replace(reason=flag),
            f"own_bound{suffix}": mean(-own.elbo),
            f"iw_nll_own_posterior{suffix}": mean(-own.log_px),
            f"iw_stderr{suffix}": mean(fair.stderr),
            f"ess{suffix}": mean(fair.ess, "samples"),
            f"pareto_k{suffix}": Measure(float(fair.pareto_k.nan_to_num(neginf=0.0).quantile(0.95)), "shape"),
            f"bound_gap{suffix}": gap,
        }
    return measures | {"distinct_codes": Measure(decoded["fair"], "codes"), "distinct_codes_own_posterior": Measure(decoded["own"], "codes")}


@torch.no_grad()
def _usage_measures(model: LatentVariableModel, posterior: Posterior, x: Tensor, seed: int) -> dict[str, Measure]:
    z = posterior(model, x).sample((8,), Noise(seed, 2, torch.arange(len(x), device=x.device)))
    used = usage(z, model.codebook.codes)
    return {"perplexity": Measure(used.perplexity, "codes"), "codes_used": Measure(used.used, "share")}
