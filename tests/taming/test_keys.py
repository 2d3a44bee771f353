"""The names of the weights: the published ones of the published size, and loading that is strict both ways. That values land where they belong is tested
by the outputs, in test_first_stage and test_transformer.
"""

import pytest
import torch
from torch import nn

from latentcomp.nn.gpt import GPT, Size
from latentcomp.taming import keys
from latentcomp.taming.config import node
from latentcomp.taming.first_stage import build_first_stage, parts_of

F16 = {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "attn_resolutions": [16], "resolution": 256, "z_channels": 256}
PARAMS = {"ddconfig": F16 | {"in_channels": 3, "out_ch": 3}, "embed_dim": 256, "n_embed": 1024, "lossconfig": {"target": "vqperceptual.Loss"}}


def names(parts: list[keys.Part]) -> set[str]:
    """All published names."""
    return {name for part in parts for theirs in part.tensors() for name in theirs}


@pytest.fixture(scope="module")
def f16():
    """The published f16 model with its critic."""
    with torch.device("meta"):
        return build_first_stage(node({"target": "VQModel", "params": PARAMS}, "the config"), critic=True)


def test_the_f16_model_has_the_published_keys(f16):
    found = names(parts_of(f16, ""))
    assert len([n for n in found if n.startswith("encoder.")]) == 144
    assert len([n for n in found if n.startswith("decoder.")]) == 194
    assert len([n for n in found if n.startswith("loss.discriminator.")]) == 22
    assert sum(p.numel() for p in [*f16.model.parameters(), *f16.posterior.parameters()] if p.requires_grad) == 72_141_699
    some = ["encoder.down.2.block.0.nin_shortcut.weight", "encoder.down.4.attn.1.proj_out.bias", "encoder.down.3.downsample.conv.bias"]
    some += ["encoder.mid.block_2.conv2.weight", "decoder.up.4.attn.2.q.weight", "decoder.up.1.upsample.conv.weight", "decoder.conv_out.bias"]
    some += ["decoder.up.3.block.0.nin_shortcut.weight", "decoder.up.1.block.0.nin_shortcut.bias", "quantize.embedding.weight", "quant_conv.bias"]
    some += ["post_quant_conv.weight", "loss.discriminator.main.11.bias", "loss.discriminator.main.3.running_var"]
    assert set(some) <= found
    assert not [n for n in found if "{" in n or "LEVEL" in n or "STEP" in n]


def test_the_transformer_has_the_published_keys():
    with torch.device("meta"):
        gpt = GPT((16,) * 4, Size(16, 8, 8, 24, 2))
    found = names([keys.Part(gpt, keys.TRANSFORMER)])
    assert len(found) + 24 == 413  # with the masks
    assert {"transformer.pos_emb", "transformer.blocks.23.attn.value.bias", "transformer.blocks.0.mlp.2.weight", "transformer.head.weight"} <= found


def test_queries_keys_and_values_are_put_together_in_this_order():
    part = keys.Part(nn.ModuleDict({"qkv": nn.Linear(2, 6)}), (("^qkv", "attn.{query,key,value}"),), "a.")
    state = {}
    for i, name in enumerate(("query", "key", "value")):
        state |= {f"a.attn.{name}.weight": torch.full((2, 2), float(i)), f"a.attn.{name}.bias": torch.full((2,), float(i))}
    keys.fill([part], state, "^$")
    assert part.module["qkv"].weight[:, 1].tolist() == part.module["qkv"].bias.tolist() == [0, 0, 1, 1, 2, 2]
    state["a.attn.key.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"a.attn.query.bias \+ a.attn.key.bias \+ a.attn.value.bias \(2,\) \+ \(3,\) \+ \(2,\), wanted \(6,\) in all"):
        keys.fill([part], state, "^$")


def test_nothing_is_filled_when_anything_is_wrong():
    layer = nn.Linear(2, 2)
    before = layer.weight.clone()
    for state in ({"weight": torch.ones(2, 2)}, {"weight": torch.ones(2, 2), "bias": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"disagree. (Missing: bias|Of another shape: bias \(3,\), wanted \(2,\))\. Use the config"):
            keys.fill([keys.Part(layer, ())], state, "^$")
    assert torch.equal(layer.weight, before)


def test_ignored_names_are_no_surplus():
    layer, state = nn.Linear(1, 1), {"weight": torch.ones(1, 1), "bias": torch.ones(1), "loss.x": torch.ones(1)}
    keys.fill([keys.Part(layer, ())], state, r"^loss\.")
    with pytest.raises(ValueError, match="Unexpected: loss.x"):
        keys.fill([keys.Part(layer, ())], state, "^$")
