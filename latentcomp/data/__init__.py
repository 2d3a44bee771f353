"""Data sets in memory, and batches whose order is a function of (seed, epoch)."""

from latentcomp.data.batches import Batches
from latentcomp.data.mnist_like import mnist
from latentcomp.data.split import Split
from latentcomp.data.toy import digits

__all__ = ["Batches", "Split", "digits", "mnist"]
