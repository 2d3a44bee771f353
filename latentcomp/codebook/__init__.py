"""The codebook e = E[z]: where codes lie, and which code lies nearest to a vector. Every geometry serves every learner."""

from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.fsq import FSQ
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lfq import LFQ
from latentcomp.codebook.lookup import nearest_code, squared_distances
from latentcomp.codebook.residual_vq import ResidualVQ
from latentcomp.codebook.sim_vq import SimVQ
from latentcomp.codebook.space import Euclidean, Sphere
from latentcomp.codebook.start import Gaussian, KMeans, SmallUniform

__all__ = [
    "FSQ", "LFQ", "Codebook", "EMACodebook", "Euclidean", "Gaussian", "Geometry", "KMeans", "ResidualVQ", "SimVQ", "SmallUniform", "Sphere", "nearest_code",
    "squared_distances",
]  # fmt: skip
