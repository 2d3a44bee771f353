"""The causal transformer equals torch's own encoder layers with the same weights."""

import pytest
import torch
from torch import nn

from latentcomp.nn.transformer import CausalTransformer
from tests.codes.families import H, contexts, network


def torchs(made: CausalTransformer, width: int = 8) -> nn.Module:
    """torch.nn's pre-norm encoder with the weights of ``made``."""
    layers = []
    for block in made.blocks:
        layer = nn.TransformerEncoderLayer(width, made.heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64)
        pairs = [(layer.self_attn.out_proj, block.out), (layer.linear1, block.mlp[0]), (layer.linear2, block.mlp[2])]
        pairs += [(layer.norm1, block.attention_norm), (layer.norm2, block.mlp_norm)]
        for theirs, ours in pairs:
            theirs.load_state_dict(ours.state_dict())
        layer.self_attn.in_proj_weight.data.copy_(block.qkv.weight)
        layer.self_attn.in_proj_bias.data.copy_(block.qkv.bias)
        layers.append(layer)
    return nn.ModuleList(layers)


@pytest.mark.parametrize("width", [H, 0])
def test_logits_and_features_equal_torchs_encoder(width):
    made, context = network("transformer", (4, 4, 4), width), contexts(5) if width else None
    z = torch.randint(4, (5, 3), generator=torch.Generator().manual_seed(0))
    first = made.start_vector.expand(5, -1) + (made.context(context) if width else 0)
    h = torch.cat([first.unsqueeze(1), made.tokens.weight[z]], 1) + made.positions
    causal = torch.ones(4, 4).triu(1).bool()  # True: not seen
    for layer in torchs(made):
        h = layer(h, causal)
    h = nn.functional.layer_norm(h, (8,), made.norm.weight, made.norm.bias)
    torch.testing.assert_close(made.features(z, context), h)
    torch.testing.assert_close(made(z, context), (h @ made.head.weight.T)[:, :3])


def test_a_width_that_the_heads_do_not_share_is_refused():
    with pytest.raises(ValueError, match=r"width \(10\) must be a multiple of the number of heads \(4\)"):
        CausalTransformer((3, 3), width=10, heads=4)
