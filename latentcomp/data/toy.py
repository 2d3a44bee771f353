"""The digits that ship with scikit-learn: small enough that every posterior can be enumerated."""

import torch

from latentcomp.data.split import Split
from latentcomp.noise import permutation


def digits(fold: int = 0) -> Split:
    """The 1,797 8x8 digits that ship with scikit-learn, binarised at half intensity (value > 8 of 16): 1,300 / 200 / 297 images ``(n, 1, 8, 8)``.

    The test set is the same for every fold (the last 297); the fold turns which 200 of the others are held out for validation.

    Source: Alpaydin and Kaynak (1998), UCI Optical Recognition of Handwritten Digits.
    """
    from sklearn.datasets import load_digits

    x = (torch.as_tensor(load_digits().images) > 8).float().unsqueeze(1)
    learn, test = x[:1500], x[1500:]
    learn = learn[permutation(len(learn), fold, 0)]
    return Split(learn[:1300], learn[1300:], test)
