"""Taming Transformers (Esser et al., 2021): its published checkpoints as models of this package.

``load_vqgan`` and ``load_transformer`` read a checkpoint and its yaml file; what they return holds the model p(x, z) as ``.model``, and speaks of codes
and images on top of it.
"""

from latentcomp.taming.first_stage import FirstStage, load_vqgan
from latentcomp.taming.transformer import Transformer, load_transformer

__all__ = ["FirstStage", "Transformer", "load_transformer", "load_vqgan"]
