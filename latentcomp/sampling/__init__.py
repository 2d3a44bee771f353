"""Images larger than a network was trained for, the better of many samples, and how samples are drawn."""

from latentcomp.sampling.drawing import Drawing
from latentcomp.sampling.patchwork import patchwork
from latentcomp.sampling.rejection import accepted, class_score
from latentcomp.sampling.tiled import Tiles, decoded, encoded
from latentcomp.sampling.window import Cropped, Everywhere, slide

__all__ = ["Cropped", "Drawing", "Everywhere", "Tiles", "accepted", "class_score", "decoded", "encoded", "patchwork", "slide"]
