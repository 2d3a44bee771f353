"""How far a learner's own posterior is from the exact one, as further measures of a row: by enumeration, and so for models with few codes.

The exact posterior of a model whose likelihood is an energy is the generalised one, p(z) exp(-E / T) over its sum. Distances between posteriors are in nats
there, too, since what x has no normaliser for divides out of p(z|x). Its log p(x) and own bound are not, and are left empty with the reason.
"""

import torch
from torch import Tensor

from latentcomp import objectives
from latentcomp.data.split import Split
from latentcomp.enumeration import log_joint_table
from latentcomp.evaluate.protocol import Measure, mean
from latentcomp.learners.learner import Learner
from latentcomp.model import LatentVariableModel

UNNORMALISED = "an energy has no normaliser, so that this is no likelihood"


class PosteriorMeasures:
    """KL, both ways, and total variation to the exact posterior on the test images, and what there is of likelihoods.

    Args:
        size: images at a time.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size

    @torch.no_grad()
    def __call__(self, model: LatentVariableModel, learner: Learner, data: Split) -> dict[str, Measure]:
        """``kl_q_p``, ``kl_p_q``, ``tv``, ``posterior_entropy``, ``exact_nll`` and ``own_bound``.

        Raises:
            TooManyCodes: there are too many codes to enumerate; says the alternative.
            ValueError: images the model cannot explain.
        """
        model.check(data.test)
        parts = [_numbers(model, learner, x) for x in data.test.split(self.size)]
        numbers = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        measures = {name: mean(values, "probability" if name == "tv" else "nats") for name, values in numbers.items()}
        if model.likelihood.normalised:
            return measures
        return measures | {name: Measure(None, "nats", None, UNNORMALISED) for name in ("exact_nll", "own_bound")}


def _numbers(model: LatentVariableModel, learner: Learner, x: Tensor) -> dict[str, Tensor]:
    """One for each image, in float64 sums."""
    log_joint, log_q = log_joint_table(model, x).double(), learner.posterior(model, x).table().double()
    log_p = log_joint.log_softmax(-1)
    return {
        "kl_q_p": objectives.kl(log_q, log_p),
        "kl_p_q": objectives.kl(log_p, log_q),
        "tv": objectives.total_variation(log_p, log_q),
        "posterior_entropy": -objectives.expected_log_joint(log_p, log_p),
        "exact_nll": -log_joint.logsumexp(-1),
        "own_bound": -objectives.elbo(log_q, log_joint),
    }
