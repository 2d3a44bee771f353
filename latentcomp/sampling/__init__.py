"""Images larger than a network was trained for, and the better of many samples."""

from latentcomp.sampling.rejection import accepted, class_score
from latentcomp.sampling.tiled import Tiles, decoded, encoded
from latentcomp.sampling.window import Cropped, Everywhere, slide

__all__ = ["Cropped", "Everywhere", "Tiles", "accepted", "class_score", "decoded", "encoded", "slide"]
