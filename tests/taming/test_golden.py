"""The import gives what the published code gave: on checkpoints and outputs that it wrote."""

import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from latentcomp import objectives
from latentcomp.nn.lpips import LPIPS
from latentcomp.taming import load_transformer, load_vqgan

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


def test_the_generators_loss_its_terms_and_its_gradients_are_the_same(io, lpips):
    """A step of the published training, its critic in training mode, its quantiser with the weights of the two terms exchanged."""
    vqgan = load_vqgan(GOLDEN / "vqgan.ckpt", GOLDEN / "vqgan.yaml").train()
    x, h = io["x"], vqgan.encoder(io["x"])
    e = vqgan.model.codebook(vqgan.model.codebook.nearest(h))
    entries = h.shape[1] * h.shape[2]
    quantisation = (objectives.commitment_loss(e, h) + 0.25 * objectives.codebook_loss(e, h)) / entries
    x_hat = vqgan.model.decode(objectives.straight_through(h, e)).mean
    distance = lpips(x, x_hat)
    reconstruction, adversarial = objectives.perceptual_loss(x, x_hat, distance), objectives.adversarial_loss(vqgan.critic(x_hat))
    weight = 0.8 * objectives.adaptive_weight(reconstruction, adversarial, vqgan.decoder.decoder.last.weight)
    total = reconstruction + weight * adversarial + quantisation
    terms = {"total": total, "quant": quantisation, "nll": reconstruction, "g": adversarial, "p": distance.mean()}
    for name, value in terms.items():
        assert close(value.detach(), io[f"log/{name}_loss"]), name
    assert close(weight, io["log/d_weight"])
    total.backward()
    gradients = {
        "decoder.conv_out.weight": vqgan.decoder.decoder.last.weight,
        "decoder.mid.block_1.conv1.weight": vqgan.decoder.decoder.middle[0].conv1.weight,
        "encoder.conv_in.weight": vqgan.encoder.encoder.first.weight,
        "quant_conv.weight": vqgan.encoder.project.weight,
        "quantize.embedding.weight": vqgan.model.codebook.weight,
    }
    assert {f"grad/{name}" for name in gradients} == {name for name in io if name.startswith("grad/")}
    for name, parameter in gradients.items():
        assert close(parameter.grad, io[f"grad/{name}"]), name


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
