"""Random weights for VGG-16, under torchvision's names."""

import torch

LAYERS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256), 17: (512, 256)}
LAYERS |= {i: (512, 512) for i in (19, 21, 24, 26, 28)}


def vgg() -> dict[str, torch.Tensor]:
    """Its state."""
    generator = torch.Generator().manual_seed(0)
    state = {f"features.{i}.weight": torch.randn(*shape, 3, 3, generator=generator) / (9 * shape[1]) ** 0.5 for i, shape in LAYERS.items()}
    return state | {f"features.{i}.bias": torch.zeros(shape[0]) for i, shape in LAYERS.items()}
