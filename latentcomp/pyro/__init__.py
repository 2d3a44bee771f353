"""GFlowNet posteriors for Pyro programs: any model with discrete latent variables inside a data plate gains an amortised sampler of p(z|x).

A Pyro model with its arguments is a latent-variable model p(x, z) like any other here: z is the sequence of the values of its discrete sites, one row for
each datum of the plate (:mod:`latentcomp.pyro.layout`, :mod:`latentcomp.pyro.program`). So the learners of this package train a guide for it as they
train any posterior: the ELBOs below are adapters, and the E-steps, behaviour policies, M-steps and sleep phase are those of ``learners`` and ``phases``.
"""

try:
    import pyro as _pyro  # noqa: F401
except ImportError as missing:
    raise ImportError("latentcomp.pyro needs the package pyro-ppl: pip install pyro-ppl") from missing

from latentcomp.pyro.elbo import GFlowNetELBO, LearnerELBO, ReweightedWakeSleep
from latentcomp.pyro.exact import ExactPosterior, exact_posterior
from latentcomp.pyro.guide import GFlowNetGuide
from latentcomp.pyro.layout import UnsupportedModel
from latentcomp.pyro.ours import as_pyro

__all__ = ["ExactPosterior", "GFlowNetELBO", "GFlowNetGuide", "LearnerELBO", "ReweightedWakeSleep", "UnsupportedModel", "as_pyro", "exact_posterior"]
