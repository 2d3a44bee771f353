"""The names of the weights: ours against those of the published checkpoints.

Each table lists rewritings of our names, applied in turn, that give the published ones; where we keep queries, keys and values in one matrix, three
published tensors make one of ours. Loading is strict in both directions, and speaks of the published names, which are those in the file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Table = Sequence[tuple[str, str]]

BLOCKS: Table = (
    (r"\.levels\.(\d+)\.blocks\.", r".LEVEL.\1.block."),
    (r"\.levels\.(\d+)\.attention\.", r".LEVEL.\1.attn."),
    (r"\.levels\.(\d+)\.resample\.", r".LEVEL.\1.STEP."),
    (r"\.middle\.0\.", ".mid.block_1."),
    (r"\.middle\.1\.", ".mid.attn_1."),
    (r"\.middle\.2\.", ".mid.block_2."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.out\.(\w+)$", r".proj_out.\1"),
    (r"\.qkv\.(\w+)$", r".{q,k,v}.\1"),
    (r"coder\.first\.", "coder.conv_in."),
    (r"coder\.norm\.", "coder.norm_out."),
    (r"coder\.last\.", "coder.conv_out."),
)
ENCODER: Table = (("^project", "quant_conv"), *BLOCKS, ("LEVEL", "down"), ("STEP", "downsample"))
DECODER: Table = (("^project", "post_quant_conv"), *BLOCKS, ("LEVEL", "up"), ("STEP", "upsample"))
CODEBOOK: Table = (("^weight", "quantize.embedding.weight"),)
GUMBEL_CODEBOOK: Table = (("^weight", "quantize.embed.weight"),)
GUMBEL_HEAD: Table = (("^", "quantize.proj."),)
CRITIC: Table = (("^layers", "loss.discriminator.main"), ("shift$", "loc"), ("initialised$", "initialized"))
TRANSFORMER: Table = (
    (r"^blocks\.(\d+)\.attention_norm", r"blocks.\1.ln1"),
    (r"^blocks\.(\d+)\.mlp_norm", r"blocks.\1.ln2"),
    (r"^blocks\.(\d+)\.qkv", r"blocks.\1.attn.{query,key,value}"),
    (r"^blocks\.(\d+)\.out", r"blocks.\1.attn.proj"),
    ("^tokens", "tok_emb"),
    ("^positions", "pos_emb"),
    ("^norm", "ln_f"),
    ("^", "transformer."),
)
ORDER: Table = (("^order", "permuter.forward_shuffle_idx"), ("^inverse", "permuter.backward_shuffle_idx"))


class Part(NamedTuple):
    """A module, and where its weights stand in a checkpoint.

    Attributes:
        module: to be filled.
        table: its names against theirs.
        prefix: before theirs, such as ``first_stage_model.``.
    """

    module: nn.Module
    table: Table
    prefix: str = ""

    def tensors(self) -> dict[tuple[str, ...], Tensor]:
        """Our tensors by the published names of what they are made from; the codebook's own counts are not among those."""
        return {self.published(name): tensor for name, tensor in self.module.state_dict().items() if name != "usage"}

    def published(self, name: str) -> tuple[str, ...]:
        """The published names of one of ours."""
        for pattern, replacement in self.table:
            name = re.sub(pattern, replacement, name)
        found = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
        names = [f"{found[1]}{middle}{found[3]}" for middle in found[2].split(",")] if found else [name]
        return tuple(self.prefix + name for name in names)


def fill(parts: Iterable[Part], state: Mapping[str, Tensor], ignored: str) -> None:
    """Copies a checkpoint's tensors into the parts, all or nothing.

    Args:
        parts: what is to be filled.
        state: the checkpoint's state.
        ignored: a pattern of published names that nothing here has a place for, such as losses and masks.

    Raises:
        ValueError: lists the weights that are missing from the state, those that it has too many, and those of another shape.
    """
    wanted = [item for part in parts for item in part.tensors().items()]
    names = {name for theirs, _ in wanted for name in theirs}
    problems = {"missing": sorted(names - state.keys()), "unexpected": sorted(n for n in state.keys() - names if not re.search(ignored, n))}
    if not any(problems.values()):
        problems["of another shape"] = [_difference(theirs, ours, state) for theirs, ours in wanted if not _fits(theirs, ours, state)]
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(which)}" for what, which in problems.items() if which)
        raise ValueError(f"the checkpoint and the config disagree. {listed[:1].upper()}{listed[1:]}. Use the config that was published beside the checkpoint")
    with torch.no_grad():
        for theirs, ours in wanted:
            ours.copy_(_joined(theirs, state).reshape(ours.shape))


def _joined(theirs: tuple[str, ...], state: Mapping[str, Tensor]) -> Tensor:
    return state[theirs[0]] if len(theirs) == 1 else torch.cat([state[name] for name in theirs])


def _fits(theirs: tuple[str, ...], ours: Tensor, state: Mapping[str, Tensor]) -> bool:
    """Equal shapes, up to axes of length one: a 1x1 convolution may be a linear layer here."""
    shapes = {tuple(n for n in state[name].shape if n != 1) for name in theirs}
    return len(shapes) == 1 and _squeezed(ours) == _squeezed(_joined(theirs, state))


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(n for n in tensor.shape if n != 1)


def _difference(theirs: tuple[str, ...], ours: Tensor, state: Mapping[str, Tensor]) -> str:
    shapes = " + ".join(str(tuple(state[name].shape)) for name in theirs)
    return f"{' + '.join(theirs)} {shapes}, wanted {tuple(ours.shape)}" + (" in all" if len(theirs) > 1 else "")
