"""q(z|x): maps from a model and images to distributions over codes."""

from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.posteriors.exact import Exact, Mode
from latentcomp.posteriors.factorised import Factorised
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.posteriors.posterior import Posterior
from latentcomp.posteriors.softmax_distance import SoftmaxDistance

__all__ = ["Autoregressive", "Exact", "Factorised", "Mode", "NearestCode", "Posterior", "SoftmaxDistance"]
