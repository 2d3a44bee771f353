"""The same weights on all sides: which parameter of the published networks is which of ours.

The published policy joins image and state in one layer, whose halves ours keeps apart. The published reward leaves out log p(z) = -16 log K, so its log Z,
which is that of one site, lies higher by log K.
"""

import math

import torch
from torch import Tensor, nn

from benchmarks.gflownet_em.ours import Ours
from benchmarks.gflownet_em.reference import Published
from benchmarks.gflownet_em.sides import Side
from benchmarks.gflownet_em.textbook import Textbook

ENCODER = {"layers.0": "0", "layers.2": "2", "layers.3": "3", "layers.4.block.0": "4.block.1", "layers.4.block.2": "4.block.3"}
ENCODER |= {"layers.5.block.0": "5.block.1", "layers.5.block.2": "5.block.3"}
DECODER = {"layers.0": "0", "layers.1.block.0": "1.block.1", "layers.1.block.2": "1.block.3", "layers.2.block.0": "2.block.1", "layers.2.block.2": "2.block.3"}
DECODER |= {"layers.3": "3", "layers.5": "5", "layers.7": "7", "layers.9": "9"}
POLICY = {"first": "state_enc.0", "prefix.1": "state_enc.2", "prefix.3": "state_enc.4", "head": "pred.2"}


def published(ours: Ours) -> dict[str, dict[str, Tensor]]:
    """Our weights under the published names, by module: ``gfn``, ``dictionary``, ``decoder``; each in the order of the published code."""
    trunk, policy, decoder = (dict(m.state_dict()) for m in (ours.posterior.trunk, ours.posterior.policy, ours.model.decoder))
    gfn = {"logZ": ours.objective.log_z.log_z.detach().view(1) + math.log(ours.setting.codes)}
    gfn |= {f"img_enc.0.encoder.{theirs}.weight": trunk[f"encoder.{name}.weight"] for name, theirs in ENCODER.items()}
    gfn |= {f"img_enc.2.{kind}": trunk[f"linear.{kind}"] for kind in ("weight", "bias")}
    gfn |= {f"{POLICY[name]}.{kind}": policy[f"{name}.{kind}"] for name in ("first", "prefix.1", "prefix.3") for kind in ("weight", "bias")}
    gfn |= {"pred.0.weight": torch.cat([policy["context.weight"], policy["joined.weight"]], 1), "pred.0.bias": policy["joined.bias"]}
    gfn |= {f"{POLICY['head']}.{kind}": policy[f"head.{kind}"] for kind in ("weight", "bias")}
    parts = {key: key.rsplit(".", 1) for key in decoder}
    decoded = {f"decoder.{theirs}.{kind}": decoder[key] for name, theirs in DECODER.items() for key, (layer, kind) in parts.items() if layer == name}
    return {"gfn": gfn, "dictionary": {"dictionary.weight": ours.model.codebook.weight.detach()}, "decoder": decoded}


def copy(ours: Ours, side: Side) -> None:
    """Gives a side our weights."""
    weights = published(ours)
    if isinstance(side, Published):
        for name, module in (("gfn", side.gfn), ("dictionary", side.dictionary), ("decoder", side.decoder)):
            module.load_state_dict(weights[name])
    elif isinstance(side, Textbook):
        log_z, *layers = weights["gfn"].values()
        _in_order(side.policy, [log_z, *layers])
        _in_order(side.decoder, [*weights["dictionary"].values(), *weights["decoder"].values()])


@torch.no_grad()
def _in_order(module: nn.Module, weights: list[Tensor]) -> None:
    for parameter, weight in zip(module.parameters(), weights, strict=True):
        parameter.copy_(weight)


@torch.no_grad()
def adopt(ours: Ours, side: Published) -> None:
    """Takes over the published side's weights."""
    theirs = {"gfn": dict(side.gfn.state_dict()), "dictionary": side.dictionary.state_dict(), "decoder": side.decoder.state_dict()}
    image, state = theirs["gfn"].pop("pred.0.weight").chunk(2, 1)
    policy = ours.posterior.policy.state_dict()
    policy["context.weight"].copy_(image)
    policy["joined.weight"].copy_(state)
    ours.objective.log_z.log_z.copy_(theirs["gfn"].pop("logZ").view(()) - math.log(ours.setting.codes))
    for part, mine in published(ours).items():
        for name, weight in theirs[part].items():
            mine[name].copy_(weight)
