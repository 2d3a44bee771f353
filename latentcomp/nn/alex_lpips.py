"""LPIPS on AlexNet: the judge of what was trained on LPIPS of VGG-16, which is a biased witness then, and the faster of the two."""

import warnings
from pathlib import Path

from torch import nn

from latentcomp.nn.lpips import LPIPS
from latentcomp.nn.weights import convolutions


class AlexLPIPS(LPIPS):
    """The distance of version 0.1 on AlexNet; everything else as in :class:`~latentcomp.nn.lpips.LPIPS`.

    Args:
        weights: a file of torchvision's AlexNet, ``features.0.weight`` and so on.

    Raises:
        ImportError: the package lpips is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold the convolutions of AlexNet.
    """

    def __init__(self, weights: str | Path) -> None:
        nn.Module.__init__(self)
        try:
            import lpips
        except ImportError as error:
            raise ImportError("LPIPS needs the packages lpips and torchvision: python -m pip install 'latentcomp[images]'") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package builds torchvision's network by a deprecated name
            self.distance = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        layers = {name.split(".")[-1]: module for name, module in self.distance.net.named_modules() if isinstance(module, nn.Conv2d)}
        wanted = {f"{number}.{part}": getattr(layer, part) for number, layer in layers.items() for part in ("weight", "bias")}
        for key, value in convolutions(Path(weights), "AlexNet", wanted).items():
            wanted[key].data.copy_(value)
        self.requires_grad_(False).eval()
