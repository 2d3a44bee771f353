"""Data sets in memory or on disk, and batches whose order is a function of (seed, epoch)."""

from latentcomp.data.batches import Batches
from latentcomp.data.conditions import Pairs
from latentcomp.data.image_folder import ImageFolder, image_split
from latentcomp.data.listing import Parts
from latentcomp.data.mnist_like import mnist
from latentcomp.data.split import Split
from latentcomp.data.toy import digits
from latentcomp.data.views import View

__all__ = ["Batches", "ImageFolder", "Pairs", "Parts", "Split", "View", "digits", "image_split", "mnist"]
