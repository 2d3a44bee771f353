"""The import gives what the published code gave: on checkpoints and outputs that it wrote."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from latentcomp import Batch
from latentcomp.nn.lpips import LPIPS
from latentcomp.taming import keys, load_transformer, load_vqgan
from latentcomp.taming.first_stage import IGNORED, FirstStage, parts_of
from latentcomp.taming.pickles import read_state
from latentcomp.taming.presets import Size, taming

SHARED = os.environ.get("LATENTCOMP_SHARED")
reason = "needs checkpoints and outputs of the published code: set LATENTCOMP_SHARED to the folder that holds golden/taming and weights"
pytestmark = pytest.mark.skipif(not SHARED or not (Path(SHARED) / "golden" / "taming").is_dir(), reason=reason)
GOLDEN, WEIGHTS = (Path(SHARED or "") / part for part in ("golden/taming", "weights/vgg16_features.safetensors"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal up to 1e-4 of the largest entry."""
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


@pytest.fixture(scope="module")
def io():
    """Inputs and outputs of the VQGAN."""
    return pytest.importorskip("safetensors.torch").load_file(GOLDEN / "vqgan.io.safetensors")


@pytest.fixture(scope="module")
def vqgan():
    """Its import."""
    return load_vqgan(GOLDEN / "vqgan.ckpt", GOLDEN / "vqgan.yaml")


@pytest.fixture(scope="module")
def lpips():
    """The distance on VGG weights from a local file."""
    pytest.importorskip("lpips")
    return LPIPS(WEIGHTS)


@torch.no_grad()
def test_vqgan_encodes_quantises_and_decodes_alike(io, vqgan):
    maps = io["h"].shape[-2:]
    h = vqgan.encoder(io["x"])
    assert close(h.mT.unflatten(-1, maps), io["h"])
    z = vqgan.encode(io["x"])
    assert torch.equal(z, io["indices"])
    assert close(vqgan.model.codebook(z).mT.unflatten(-1, maps), io["z_q"])
    assert close(vqgan.decode(z, maps), io["x_rec"])
    assert close(vqgan.reconstruct(io["x"]), io["x_rec"])
    assert torch.equal(vqgan.posterior(vqgan.model, io["x"]).mode, io["indices"])
    assert close(vqgan.model.decode(vqgan.model.codebook(z)).mean, io["x_rec"])


@torch.no_grad()
def test_the_critic_judges_alike(io, vqgan):
    assert close(vqgan.critic(io["x"]), io["logits_real_eval"])
    assert close(vqgan.critic(io["x_rec"]), io["logits_rec_eval"])


@torch.no_grad()
def test_lpips_sees_the_same_distance(io, lpips):
    assert close(lpips(io["x"], io["x_rec"]), io["lpips"])


def test_the_taming_preset_makes_the_published_step(io):
    """The learner's own losses: every logged term, lambda, the five gradients, the critic's logits. Dropout is off, as when these were written.

    In float64: the gradient of an L1 error jumps where a pixel is met, and in float32 it depends on a processor's rounding which side of it a pixel lies on.
    One pixel of 24,576 moves a gradient by more than is allowed.
    """
    pytest.importorskip("lpips")
    size = Size((3, 64, 64), codes=32, width=8, features=16, channels=32, multipliers=(1, 2), blocks=1, critic=16)
    model, learner = taming(size, WEIGHTS, start=0)
    stage = FirstStage(model, learner.posterior, learner.critic.network)
    keys.fill(parts_of(stage, ""), read_state(GOLDEN / "vqgan.ckpt"), IGNORED)
    model.double().train()
    judge = learner.double().eval().critic.network
    with torch.no_grad():
        assert close(judge(io["x"].double()), io["logits_real_eval"])
        assert close(judge(io["x_rec"].double()), io["logits_rec_eval"])
    learner.train()
    model.likelihood.eval()
    losses = learner.losses(model, Batch(io["x"].double()))
    loss = next(losses)
    m = loss.metrics
    logged = {"p": m["perceptual"], "nll": m["l1"] + m["perceptual"], "rec": m["l1"] + m["perceptual"], "quant": m["quantisation"], "g": m["adversarial"]}
    total = logged["nll"] + m["ramp"] * m["lambda"] * m["adversarial"] + m["quantisation"]
    terms = {f"log/{name}_loss": value for name, value in {**logged, "total": total}.items()} | {"log/d_weight": m["lambda"], "log/disc_factor": m["ramp"]}
    assert terms.keys() == {name for name in io if name.startswith("log/")}
    for name, value in terms.items():
        assert close(value, io[name]), name
    assert close(loss.output.detach(), io["x_rec"])
    loss.value.backward(inputs=loss.learns)
    gradients = {name: parameter.grad for part in parts_of(stage, "") for name, parameter in named(part)}
    wanted = {name.removeprefix("grad/"): value for name, value in io.items() if name.startswith("grad/")}
    assert len(wanted) == 5
    for name, value in wanted.items():
        assert close(gradients[name].reshape(value.shape), value), name
    assert all(parameter.grad is None for parameter in learner.critic.parameters())
    critic = next(losses)
    assert critic.term == "critic"
    assert {id(p) for p in critic.learns} == {id(p) for p in learner.critic.parameters()}


def named(part: keys.Part) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A part's parameters by their published names, where one of ours is one of theirs."""
    for name, parameter in part.module.named_parameters():
        published = part.published(name)
        if len(published) == 1:
            yield published[0], parameter


@torch.no_grad()
def test_the_class_transformer_writes_alike():
    io = pytest.importorskip("safetensors.torch").load_file(GOLDEN / "class_transformer.io.safetensors")
    transformer = load_transformer(GOLDEN / "class_transformer.ckpt", GOLDEN / "class_transformer.yaml")
    r, z = transformer.encode_condition(io["c"]), transformer.encode(io["x"])
    assert torch.equal(r, io["c_indices"])
    assert torch.equal(z, io["z_indices"])
    logits = transformer.logits(z, r)
    assert close(logits, io["logits"])
    assert close(cross_entropy(logits.flatten(0, 1), z.flatten()), io["loss"])
    assert close(-transformer.model.prior(io["c"]).log_prob(z).mean() / 64, io["loss"])
    assert torch.equal(transformer.sample(r, 64, greedy=True), io["greedy"])
    uncached = torch.zeros(2, 0, dtype=torch.long)
    for _ in range(64):
        longer = torch.cat([uncached, torch.zeros(2, 1, dtype=torch.long)], 1)
        uncached = torch.cat([uncached, transformer.logits(longer, r)[:, -1:].argmax(-1)], 1)
    assert torch.equal(uncached, io["greedy"])
