"""The codebook that keeps thousands of codes in use: few dimensions, on the sphere, running means from a k-means start, dead codes restarted.

Each part mends what makes the published quantiser use few of its codes (ViT-VQGAN, Yu et al., 2022; Jukebox, Dhariwal et al., 2020): in 8 to 32 dimensions on
the sphere every code lies near some output, k-means puts all of them there from the first step on, and those that lose their outputs get new ones.
"""

from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.space import Sphere
from latentcomp.codebook.start import KMeans


def modern_codebook(codes: int, width: int, restart: float = 0.1) -> EMACodebook:
    """The codebook of the ``modern`` presets: ``taming.presets.modern``, and ``modern`` among the configurations.

    Args:
        codes: K.
        width: D, of 8 to 32.
        restart: codes that are used less than this share of the even use, in running mean, move onto encoder outputs.
    """
    return EMACodebook(codes, width, restart, start=KMeans(), space=Sphere())
