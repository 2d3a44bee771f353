"""Weights of published image networks from local files, under torchvision's names."""

from pathlib import Path

import torch
from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, ``.safetensors`` or what ``torch.load`` reads.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package that reads it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no weights at {path}: give a file of torchvision's network, with features.0.weight and so on, as .safetensors or as a .pth that "
            "torchvision saved on a machine with a network"
        )
    if path.suffix != ".safetensors":
        return torch.load(path, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"reading {path.name} needs the package safetensors: python -m pip install 'latentcomp[images]'") from error
    return load_file(path)


def convolutions(path: Path, network: str, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors ``features.*`` of a file, by the name behind it.

    Args:
        path: the file.
        network: its name, for the error.
        wanted: tensors of the shapes that are wanted, by number and part, such as ``0.weight``.

    Raises:
        ValueError: the file lacks some, or holds them in another shape.
    """
    state = read_weights(path)
    wrong = sorted(key for key, value in wanted.items() if f"features.{key}" not in state or state[f"features.{key}"].shape != value.shape)
    if wrong:
        raise ValueError(f"{path} is not torchvision's {network}: it lacks features.{', features.'.join(wrong)}, or holds them in another shape")
    return {key: state[f"features.{key}"] for key in wanted}
