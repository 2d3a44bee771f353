"""Small networks of VQGAN's kind that can still see colours.

The published norms have 32 groups, made for 128 channels and more. At 32 channels a group is one channel, whose mean the norm takes away: behind the
decoder's last norm nothing is left of how bright or how red a smooth square is, and reconstructions stay the grey mean of all pictures.
"""

from torch import nn

from experiments.own_images.plain import Preset
from latentcomp.nn.unet import GROUPS, Norm

LEAST = 8  # channels in a group


def regrouped(preset: Preset) -> Preset:
    """The same model and learner, in place, each norm in as many groups as have at least eight channels each, and at most 32: at 256 channels nothing changes.

    Args:
        preset: a model and its learner.
    """
    for module in nn.ModuleList([preset.model, preset.learner]).modules():
        if isinstance(module, Norm):
            module.num_groups = min(GROUPS, max(1, module.num_channels // LEAST))
    return preset
