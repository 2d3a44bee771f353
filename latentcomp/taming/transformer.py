"""The published second stages: transformers over the codes of a first stage, given those of a condition (Esser et al., 2021, section 3.2).

p(z|c) = prod_i p(z_i | z_<i, r(c)), with the condition's codes r before the image's. Together with the first stage's codebook and decoder that is the
model p(x, z|c) = p(z|c) p(x|z), whose z stands in the order in which the transformer writes the grid.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor, nn

from latentcomp.codes.truncated import TruncatedCodes
from latentcomp.conditions import Conditioning, Coordinates, Labels, StartCode, Tokens
from latentcomp.described import Described
from latentcomp.model import LatentVariableModel
from latentcomp.nn.gpt import GPT, Dropout, Size
from latentcomp.nn.grid import Ordered, OrderedDecoder
from latentcomp.nn.orders import ORDERS
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive, InOrder, Prior
from latentcomp.taming import keys
from latentcomp.taming.config import Config, TextFile, node, read_config
from latentcomp.taming.first_stage import IGNORED, KINDS, FirstStage, first_stage_from
from latentcomp.taming.pickles import BinaryFile, read_state

MASKS = r"^transformer\.blocks\.\d+\.attn\.mask$"


class Transformer(Described, nn.Module):
    """Both stages of Taming Transformers.

    Args:
        first_stage: images to codes and back.
        network: the transformer.
        condition: conditions to codes.
        grid: (h, w), which the transformer writes in one piece: its network has h w sites.
        order: in which it writes them; None for row by row.
    """

    def __init__(self, first_stage: FirstStage, network: GPT, condition: Conditioning, grid: Sequence[int], order: Ordered | None = None) -> None:
        super().__init__()
        self.first_stage, self.order, self.condition, self.grid = first_stage, order, condition, tuple(grid)
        stage = first_stage.model
        prior = Autoregressive(network, None if isinstance(condition.stage, StartCode) else condition)
        decoder = first_stage.decoder.of_grid(grid)
        self.model = LatentVariableModel(prior, stage.codebook, decoder if order is None else OrderedDecoder(decoder, order), stage.likelihood)

    @property
    def condition_stage(self) -> nn.Module:
        """What turns conditions into codes: a :class:`FirstStage`, or one of :mod:`latentcomp.conditions`."""
        return self.condition.stage

    @property
    def network(self) -> GPT:
        """The transformer."""
        return cast(GPT, cast(Autoregressive, self.model.prior).network)

    @property
    def prior(self) -> Prior:
        """p(z|c) of grids row by row, in whatever order the transformer writes them: what ``Drawing`` and ``patchwork`` take, and what completes a part of a
        grid. The codes of every other method stand in the transformer's own order.
        """
        return self.model.prior if self.order is None else InOrder(self.model.prior, self.order.order)

    def encode_condition(self, c: Shaped[Tensor, "B ..."]) -> Int[Tensor, "B M"]:
        """The codes r of labels ``(B,)`` or maps ``(B, C, H, W)``; where there is no condition, the start code for any tensor of B rows.

        Raises:
            TypeError: labels that are no whole numbers, images that are not floating; a map of labels may be either.
            ValueError: a label or coordinate out of range, a map whose sides the strides do not divide.
        """
        return self.condition(c)

    def encode(self, x: Num[Tensor, "B C H W"]) -> Int[Tensor, "B N"]:
        """The codes z of images, in the transformer's order.

        Raises:
            TypeError: as in the first stage.
            ValueError: as in the first stage, or where the grid is not of the size that the order is for.
        """
        z = self.first_stage.encode(x)
        return z if self.order is None else self.order(z)

    def decode(self, z: Int[Tensor, "B N"], shape: Sequence[int] | None = None) -> Float[Tensor, "B C H W"]:
        """The images of codes z in the transformer's order, which fill a grid (h, w); by default the one that it writes in one piece.

        Raises:
            ValueError: they do not fill it, or lie outside the codebook.
        """
        return self.first_stage.decode(z if self.order is None else self.order.undo(z), shape or self.grid)

    def logits(self, z: Int[Tensor, "B T"], r: Int[Tensor, "B M"]) -> Float[Tensor, "B T V"]:
        """Logits over the vocabulary; ``logits[:, t]`` is about z_t given r and the codes before it, so that z's last code changes nothing.

        Args:
            z: codes in the transformer's order.
            r: the condition's codes.

        Raises:
            TypeError: codes that are no whole numbers.
            ValueError: a code lies outside the vocabulary, M + T - 1 exceeds the transformer's positions, or z and r have different rows.
        """
        _check_codes(z=z, r=r)
        return self.network.logits(z, r)

    def sample(
        self,
        r: Int[Tensor, "B M"],
        steps: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        greedy: bool = False,
        noise: Noise | None = None,
    ) -> Int[Tensor, "B steps"]:
        """Codes z in the transformer's order, without a gradient, with a cache of keys and values.

        Args:
            r: the condition's codes.
            steps: how many codes to draw.
            temperature: divides the logits.
            top_k: how many codes each step keeps, at most V; None for all.
            top_p: the probability that the kept codes reach; with ``top_k`` too, of those that it kept.
            greedy: take the most probable code at each step instead.
            noise: a stream for each row; by default the draws follow ``torch.manual_seed``.

        Raises:
            TypeError: codes that are no whole numbers.
            ValueError: M + steps - 1 exceeds the transformer's positions, a code of r lies outside the vocabulary, or a setting is out of range.
        """
        _check_codes(r=r)
        if top_k is not None and top_k > self.network.size.vocabulary:
            raise ValueError(f"top_k={top_k} codes cannot stay of V={self.network.size.vocabulary}: pass V or fewer, or None to keep all")
        with torch.no_grad():
            kept = None if top_k is None else min(top_k, self.network.cardinalities[0])  # codes that only conditions have are never drawn
            q = TruncatedCodes(self.network.of_length(steps), r, temperature, kept, top_p)
            return q.mode if greedy else q.sample((), noise)


def _check_codes(**codes: Tensor) -> None:
    for name, value in codes.items():
        if value.is_floating_point() or value.dtype == torch.bool:
            raise TypeError(f"{name} holds codes, which are whole numbers (torch.long); got {value.dtype}")
        if value.ndim != 2 or not value.shape[1]:
            raise ValueError(f"{name} must have shape (B, number of codes), at least one code; got {tuple(value.shape)}")
    if len({len(value) for value in codes.values()}) > 1:
        raise ValueError(f"a condition goes with each row of codes, but there are {', '.join(f'{len(v)} rows of {n}' for n, v in codes.items())}")


def gpt_of(config: Config) -> Config:
    """The node of the network in a transformer's config.

    Raises:
        ValueError: another kind than GPT.
    """
    gpt = config.node("transformer_config")
    if gpt.kind != "GPT":
        raise ValueError(f"{gpt.kind} cannot be imported: the transformer must be a GPT (taming.modules.transformer.mingpt.GPT)")
    return gpt


def build_network(config: Config, codes: int, sites: int, start: int | None) -> GPT:
    """The untrained transformer of a config, for a grid of so many sites and codes.

    Raises:
        ValueError: a config that lacks something, or a vocabulary that does not hold the first stage's codes.
    """
    size = Size(*(config.whole(name) for name in ("vocab_size", "block_size", "n_embd", "n_layer", "n_head")))
    if size.vocabulary < codes:
        raise ValueError(f"the transformer's vocab_size ({size.vocabulary}) does not hold the first stage's {codes} codes: these two do not belong together")
    dropout = Dropout(*(config.rate(f"{where}_pdrop") for where in ("embd", "resid", "attn")))
    return GPT((codes,) * sites, size, dropout, config.whole("n_unmasked", 0, least=0), start)


def grid_of(config: Config, first_stage: FirstStage, condition: nn.Module) -> tuple[int, int]:
    """What a transformer writes in one piece: the grid that its order is for, else that of the first stage's resolution, else the largest square that its
    positions hold, beside a condition as large where the condition is an image.
    """
    if config.get("permuter_config") is not None and config.node("permuter_config").kind != "Identity":
        return _sides(config.node("permuter_config"))
    positions, nominal = gpt_of(config).whole("block_size"), first_stage.decoder.grid
    if math.prod(nominal) <= positions:
        return nominal[0], nominal[1]
    side = math.isqrt(positions if isinstance(condition, Labels | StartCode | Tokens) else (positions + 1) // 2)
    return side, side


def build_condition(config: Config, first_stage: FirstStage, state: dict[str, Tensor]) -> tuple[nn.Module, list[keys.Part]]:
    """The condition stage of a transformer's config, and its parts to be filled.

    Raises:
        ValueError: an unknown kind.
    """
    value = config["cond_stage_config"]
    if value == "__is_first_stage__":
        _drop_copies(state)
        return first_stage, []
    if value == "__is_unconditional__" or config.get("unconditional", False):
        return StartCode(config.whole("sos_token", 0, least=0)), []
    stage = node(value, f"{config.kind}.params.cond_stage_config")
    if stage.kind in KINDS:
        return first_stage_from(stage, state, "cond_stage_model.")
    known: dict[str, Callable[[], nn.Module]] = {
        "Labelator": lambda: Labels(stage.whole("n_classes")),
        "CoordStage": lambda: Coordinates(stage.whole("n_embed"), stage.whole("down_factor")),
        "SOSProvider": lambda: StartCode(stage.whole("sos_token", 0, least=0)),
        "DummyCondStage": lambda: Tokens(config.node("transformer_config").whole("vocab_size")),
    }
    if stage.kind not in known:
        raise ValueError(f"{stage.kind} is no condition stage that can be imported: {', '.join((*known, *KINDS))} can")
    return known[stage.kind](), []


def _drop_copies(state: dict[str, Tensor]) -> None:
    """A condition that is encoded by the first stage is stored twice; the second copy goes, if it is one."""
    for name in [n for n in state if n.startswith("cond_stage_model.")]:
        original = state.get(name.replace("cond_stage_model.", "first_stage_model.", 1))
        if original is None or not torch.equal(original, state[name]):
            raise ValueError(f"the config says that the condition is encoded by the first stage, but {name} differs from the first stage's weights")
        del state[name]


def _sides(permuter: Config) -> tuple[int, int]:
    return permuter.whole("H"), permuter.whole("W")


def build_order(config: Config) -> Ordered | None:
    """The order that a transformer's config names; None for row by row.

    Raises:
        ValueError: an unknown one.
    """
    if config.get("permuter_config") is None:
        return None
    permuter = config.node("permuter_config")
    if permuter.kind not in ORDERS:
        raise ValueError(f"{permuter.kind} is no known order of sites: {', '.join(ORDERS)} are")
    return None if permuter.kind == "Identity" else Ordered(ORDERS[permuter.kind](*_sides(permuter)))


def load_transformer(checkpoint: str | Path | BinaryFile, config: str | Path | TextFile | Mapping[str, Any]) -> Transformer:
    """A published transformer with both of its stages, in evaluation mode on the CPU.

    Args:
        checkpoint: a path or an open file; read without executing anything (:func:`~latentcomp.taming.pickles.read_state`).
        config: the yaml file beside it, as a path, an open file or a dictionary.

    Raises:
        ValueError: the file is no checkpoint, or it and the config disagree; lists the weights that are missing, unexpected or of another shape.
    """
    net2net = read_config(config)
    if net2net.kind != "Net2NetTransformer":
        raise ValueError(f"the config is one of {net2net.kind}, not of Net2NetTransformer: a first stage alone goes to load_vqgan")
    state = read_state(checkpoint)
    first_stage, parts = first_stage_from(net2net.node("first_stage_config"), state, "first_stage_model.")
    condition, condition_parts = build_condition(net2net, first_stage, state)
    order, side = build_order(net2net), net2net.whole("downsample_cond_size", -1, least=-1)
    grid, start = grid_of(net2net, first_stage, condition), condition.code if isinstance(condition, StartCode) else None
    network = build_network(gpt_of(net2net), first_stage.model.codebook.codes, math.prod(grid), start)
    parts += [*condition_parts, keys.Part(network, keys.TRANSFORMER), *([] if order is None else [keys.Part(order, keys.ORDER)])]
    keys.fill(parts, state, f"{IGNORED}|{MASKS}")
    if order is not None:
        order.check()
    conditioning = Conditioning(condition, side if side > -1 and start is None else None)
    return Transformer(first_stage, network, conditioning, grid, order).eval()
