"""The published networks once more, as plain functions over a checkpoint's own names, and tiny checkpoints of every kind.

Nothing here shares code with the package. ``Weights`` makes a tensor the first time that a function asks for its name, so that running a network once
also writes its checkpoint.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, gelu, group_norm, interpolate, layer_norm, linear, pad

DD = {"double_z": False, "z_channels": 8, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "num_res_blocks": 1, "dropout": 0.0}


class Weights(dict):
    """A state that grows when it is asked for a tensor."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int, mean: float = 0.0) -> Tensor:
        """The tensor of a name, made now or before."""
        if name not in self:
            self[name] = mean + torch.randn(*shape, generator=self.generator) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
        return self[name]


def conv(w: Weights, name: str, x: Tensor, out: int, kernel: int = 3, **options: Any) -> Tensor:
    """A convolution with bias."""
    return conv2d(x, w(f"{name}.weight", out, x.shape[1], kernel, kernel), w(f"{name}.bias", out), **options)


def norm_swish(w: Weights, name: str, x: Tensor, swish: bool = True) -> Tensor:
    """Group norm, and x sigmoid(x) behind it."""
    x = group_norm(x, 32, w(f"{name}.weight", x.shape[1], mean=1.0), w(f"{name}.bias", x.shape[1]), 1e-6)
    return x * x.sigmoid() if swish else x


def residual(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    """Norm, swish, convolution, twice; a 1x1 convolution on the shortcut where the width changes."""
    h = conv(w, f"{name}.conv1", norm_swish(w, f"{name}.norm1", x), out, padding=1)
    h = conv(w, f"{name}.conv2", norm_swish(w, f"{name}.norm2", h), out, padding=1)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.nin_shortcut", x, out, 1))


def attention(w: Weights, name: str, x: Tensor) -> Tensor:
    """Softmax attention written out."""
    h = norm_swish(w, f"{name}.norm", x, swish=False)
    q, k, v = (conv(w, f"{name}.{part}", h, x.shape[1], 1).flatten(2) for part in "qkv")
    weights = (q.mT @ k / x.shape[1] ** 0.5).softmax(-1)
    return x + conv(w, f"{name}.proj_out", (v @ weights.mT).view_as(x), x.shape[1], 1)


def middle(w: Weights, name: str, x: Tensor) -> Tensor:
    """The bottom."""
    x = attention(w, f"{name}.attn_1", residual(w, f"{name}.block_1", x, x.shape[1]))
    return residual(w, f"{name}.block_2", x, x.shape[1])


def encoder(w: Weights, name: str, dd: dict[str, Any], x: Tensor) -> Tensor:
    """Images to maps."""
    x, levels = conv(w, f"{name}.conv_in", x, dd["ch"], padding=1), len(dd["ch_mult"])
    for level, multiplier in enumerate(dd["ch_mult"]):
        for block in range(dd["num_res_blocks"]):
            x = residual(w, f"{name}.down.{level}.block.{block}", x, dd["ch"] * multiplier)
            if dd["resolution"] // 2**level in dd["attn_resolutions"]:
                x = attention(w, f"{name}.down.{level}.attn.{block}", x)
        if level < levels - 1 and dd.get("resamp_with_conv", True):
            x = conv(w, f"{name}.down.{level}.downsample.conv", pad(x, (0, 1, 0, 1)), x.shape[1], stride=2)
        elif level < levels - 1:
            x = avg_pool2d(x, 2)
    return conv(w, f"{name}.conv_out", norm_swish(w, f"{name}.norm_out", middle(w, f"{name}.mid", x)), dd["z_channels"], padding=1)


def decoder(w: Weights, name: str, dd: dict[str, Any], x: Tensor) -> Tensor:
    """Maps to images."""
    x = middle(w, f"{name}.mid", conv(w, f"{name}.conv_in", x, dd["ch"] * dd["ch_mult"][-1], padding=1))
    for level in reversed(range(len(dd["ch_mult"]))):
        for block in range(dd["num_res_blocks"] + 1):
            x = residual(w, f"{name}.up.{level}.block.{block}", x, dd["ch"] * dd["ch_mult"][level])
            if dd["resolution"] // 2**level in dd["attn_resolutions"]:
                x = attention(w, f"{name}.up.{level}.attn.{block}", x)
        if level:
            x = interpolate(x, scale_factor=2.0)
            x = conv(w, f"{name}.up.{level}.upsample.conv", x, x.shape[1], padding=1) if dd.get("resamp_with_conv", True) else x
    return conv(w, f"{name}.conv_out", norm_swish(w, f"{name}.norm_out", x), dd["out_ch"], padding=1)


def first_stage(config: dict[str, Any], w: Weights, x: Tensor, prefix: str = "") -> tuple[Tensor, Tensor]:
    """Codes ``(B, N)`` and the decoder's output, of a VQModel, a VQSegmentationModel or a GumbelVQ."""
    params, kind = config["params"], config["target"].split(".")[-1]
    dd, width, codes = params["ddconfig"], params["embed_dim"], params["n_embed"]
    h = conv(w, f"{prefix}quant_conv", encoder(w, f"{prefix}encoder", dd, x), width, 1)
    if kind == "GumbelVQ":
        z = conv(w, f"{prefix}quantize.proj", h, codes, 1).argmax(1)
        vectors = w(f"{prefix}quantize.embed.weight", codes, width)
    else:
        vectors = w(f"{prefix}quantize.embedding.weight", codes, width)
        z = (h.movedim(1, -1).unsqueeze(-2) - vectors).square().sum(-1).argmin(-1)
    e = vectors[z].movedim(-1, 1)
    return z.flatten(1), decoder(w, f"{prefix}decoder", dd, conv(w, f"{prefix}post_quant_conv", e, dd["z_channels"], 1))


def gpt(config: dict[str, Any], w: Weights, codes: Tensor) -> Tensor:
    """Logits at every position, by attention written out."""
    p, (rows, length) = config["params"], codes.shape
    width, heads = p["n_embd"], p["n_head"]
    x = w("transformer.tok_emb.weight", p["vocab_size"], width)[codes] + w("transformer.pos_emb", 1, p["block_size"], width)[:, :length]
    mask = torch.ones(p["block_size"], p["block_size"]).tril()
    mask[: p.get("n_unmasked", 0), : p.get("n_unmasked", 0)] = 1

    def norm(name: str, h: Tensor) -> Tensor:
        return layer_norm(h, (width,), w(f"{name}.weight", width, mean=1.0), w(f"{name}.bias", width))

    def dense(name: str, h: Tensor, out: int = width) -> Tensor:
        return linear(h, w(f"{name}.weight", out, h.shape[-1]), w(f"{name}.bias", out))

    for layer in range(p["n_layer"]):
        name = f"transformer.blocks.{layer}"
        w.setdefault(f"{name}.attn.mask", mask.view(1, 1, *mask.shape))
        h = norm(f"{name}.ln1", x)
        q, k, v = (dense(f"{name}.attn.{part}", h).view(rows, length, heads, -1).transpose(1, 2) for part in ("query", "key", "value"))
        scores = (q @ k.mT / (width // heads) ** 0.5).masked_fill(mask[:length, :length] == 0, -torch.inf)
        x = x + dense(f"{name}.attn.proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, width))
        x = x + dense(f"{name}.mlp.2", gelu(dense(f"{name}.mlp.0", norm(f"{name}.ln2", x), 4 * width)))
    return norm("transformer.ln_f", x) @ w("transformer.head.weight", p["vocab_size"], width).T


def vq_config(kind: str = "VQModel", codes: int = 16, width: int = 4, **dd: Any) -> dict[str, Any]:
    """A first stage's node; ``dd`` changes its ddconfig."""
    ddconfig = DD | {"ch_mult": [1, 2], "attn_resolutions": [8]} | dd
    loss = {"target": "taming.modules.losses.DummyLoss"}
    params = {"embed_dim": width, "n_embed": codes, "ddconfig": ddconfig, "lossconfig": loss}
    return {"target": f"taming.models.vqgan.{kind}", "params": params}


def net_config(condition: object, stage: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    """A transformer's whole config; ``params`` are those of Net2NetTransformer, those of the GPT under ``gpt``."""
    sizes = {"vocab_size": 16, "block_size": 128, "n_layer": 2, "n_head": 2, "n_embd": 8} | params.pop("gpt", {})
    made = {
        "cond_stage_config": condition,
        "first_stage_config": stage or vq_config(),
        "transformer_config": {"target": "taming.modules.transformer.mingpt.GPT", "params": sizes},
    }
    return {"model": {"target": "taming.models.cond_transformer.Net2NetTransformer", "params": made | params}}


def images(*shape: int, seed: int = 0) -> Tensor:
    """Images in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
