"""Every kind of first stage encodes and decodes as the published networks do, and says what is wrong with a checkpoint, a config or an image."""

import io
import re

import pytest
import torch

from latentcomp.likelihoods import Bernoulli
from latentcomp.nn.critic import ActNorm
from latentcomp.posteriors.factorised import Factorised
from latentcomp.taming import load_vqgan
from latentcomp.taming.config import Config
from latentcomp.taming.first_stage import build_critic
from tests.taming.published import Weights, first_stage, images, vq_config


def saved(state: dict, **more: object) -> io.BytesIO:
    """A checkpoint in memory."""
    file = io.BytesIO()
    torch.save({"state_dict": dict(state), "epoch": 3} | more, file)
    file.seek(0)
    return file


KINDS = {
    "three levels, attention at two of them": vq_config(ch_mult=[1, 2, 2], attn_resolutions=[4, 8], resolution=16),
    "attention at full resolution, deeper blocks": vq_config(attn_resolutions=[16], num_res_blocks=2),
    "no attention outside the middle, no convolution in resampling": vq_config(attn_resolutions=[], resamp_with_conv=False, ch_mult=[2, 1]),
    "one level": vq_config(ch_mult=[1], attn_resolutions=[]),
    "one channel": vq_config(in_channels=1, out_ch=1),
    "label maps": vq_config("VQSegmentationModel", in_channels=5, out_ch=5),
    "Gumbel": vq_config("GumbelVQ", width=8),
}
kinds = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())


@kinds
@torch.no_grad()
def test_codes_and_reconstructions_equal_the_published_ones_at_any_size(config):
    channels = config["params"]["ddconfig"]["in_channels"]
    w, x = Weights(), images(2, channels, 16, 24)
    z, decoded = first_stage(config, w, x)
    vqgan = load_vqgan(saved(w), config)
    decoded = decoded.sigmoid() if isinstance(vqgan.model.likelihood, Bernoulli) else decoded
    assert torch.equal(vqgan.encode(x), z)
    assert torch.equal(vqgan.encode(x), z)  # no noise in it
    f = vqgan.stride
    torch.testing.assert_close(vqgan.decode(z, (16 // f, 24 // f)), decoded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vqgan(x), decoded, rtol=1e-4, atol=1e-4)


@kinds
@torch.no_grad()
def test_the_model_is_a_latent_variable_model_of_the_nominal_size(config):
    channels = config["params"]["ddconfig"]["in_channels"]
    w, x = Weights(), images(2, channels, 16, 16)
    z, _ = first_stage(config, w, x)
    vqgan = load_vqgan(saved(w), config)
    q = vqgan.posterior(vqgan.model, x)
    assert torch.equal(q.mode, z)
    assert isinstance(q.log_prob(z), torch.Tensor)
    assert vqgan.model.image_shape == (channels, 16, 16)
    assert vqgan.model.log_joint(x, z).shape == (2,)
    torch.testing.assert_close(vqgan.decode(z), vqgan.model.decode(vqgan.model.codebook(z)).mean)


def test_the_gumbel_variant_has_a_posterior_with_an_entropy():
    w, x = Weights(), images(1, 3, 16, 16)
    first_stage(KINDS["Gumbel"], w, x)
    vqgan = load_vqgan(saved(w), KINDS["Gumbel"])
    assert isinstance(vqgan.posterior, Factorised)
    logits = vqgan.posterior.head(vqgan.encoder(x))
    torch.testing.assert_close(vqgan.posterior(vqgan.model, x).log_p, logits.log_softmax(-1))


def test_label_maps_may_come_as_labels():
    w, labels = Weights(), torch.randint(5, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    one_hot = torch.eye(5)[labels[:, 0]].movedim(-1, 1)
    z, _ = first_stage(KINDS["label maps"], w, one_hot)
    vqgan = load_vqgan(saved(w), KINDS["label maps"])
    assert torch.equal(vqgan.encode(labels), z)
    assert torch.equal(vqgan.encode(one_hot), z)
    with pytest.raises(ValueError, match=r"labels must lie in 0..4; got values from 0 to 5"):
        vqgan.encode((labels == labels.max()).long() * 5)


@torch.no_grad()
def test_codes_in_use_alone_are_taken_with_their_own_numbers():
    """A remapped checkpoint keeps its full codebook and a list; codes on the list are found, others never."""
    config, w, x = vq_config(codes=16), Weights(), images(2, 3, 16, 16)
    z, decoded = first_stage(config, w, x)
    used = torch.unique(z).flip(0)
    config["params"]["remap"] = "used.npy"
    vqgan = load_vqgan(saved(w | {"quantize.used": used}), config)
    assert vqgan.model.codebook.codes == len(used) < 16
    assert torch.equal(used[vqgan.encode(x)], z)
    torch.testing.assert_close(vqgan.decode(vqgan.encode(x), (8, 8)), decoded, rtol=1e-4, atol=1e-4)
    fewer = load_vqgan(saved(w | {"quantize.used": used[1:]}), config)
    assert fewer.encode(x).max() < len(used) - 1
    with pytest.raises(ValueError, match="lacks quantize.used"):
        load_vqgan(saved(w), config)


@pytest.mark.parametrize("actnorm", [False, True])
def test_the_critic_comes_along_where_the_checkpoint_has_one(actnorm):
    config, w, x = vq_config(), Weights(), images(2, 3, 16, 16)
    first_stage(config, w, x)
    critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 2, 1), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(4, 8, 4, 1, 1, bias=actnorm))
    critic += torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 4, 1, 1))
    state = {f"loss.discriminator.main.{name}": tensor for name, tensor in critic.state_dict().items()}
    if actnorm:
        state = {name: tensor for name, tensor in state.items() if ".3." not in name}
        more = {"loc": torch.full((1, 8, 1, 1), 0.5), "scale": torch.full((1, 8, 1, 1), 2.0), "initialized": torch.tensor(1, dtype=torch.uint8)}
        state |= {f"loss.discriminator.main.3.{name}": tensor for name, tensor in more.items()}
        critic[3] = torch.nn.BatchNorm2d(8, eps=0.0).eval()  # 2 (x + 0.5): running mean -0.5, running variance 1/4
        critic[3].running_mean.fill_(-0.5)
        critic[3].running_var.fill_(0.25)
    params = {"disc_ndf": 4, "disc_num_layers": 1, "use_actnorm": actnorm, "disc_start": 0}
    config["params"]["lossconfig"] = {"target": "taming.modules.losses.vqperceptual.VQLPIPSWithDiscriminator", "params": params}
    vqgan = load_vqgan(saved(w | state | {"loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1)}), config)
    assert any(isinstance(layer, ActNorm) for layer in vqgan.critic.layers) == actnorm
    with torch.no_grad():
        torch.testing.assert_close(vqgan.critic(x), critic.eval()(x))
    assert load_vqgan(saved(w), config).critic is None
    config["params"]["lossconfig"] = {"target": "taming.modules.losses.DummyLoss"}
    assert load_vqgan(saved(w | state), config).critic is None
    del config["params"]["lossconfig"]
    assert load_vqgan(saved(w | state), config).critic is None


def test_a_bare_state_of_half_precision_loads_too():
    config, w, x = vq_config(), Weights(), images(1, 3, 16, 16)
    first_stage(config, w, x)
    file = io.BytesIO()
    torch.save({name: tensor.half() for name, tensor in w.items()}, file)
    vqgan = load_vqgan(file, {"model": config})
    assert vqgan.model.codebook.weight.dtype == torch.float32
    assert not vqgan.training


@pytest.fixture
def made() -> tuple[dict, Weights]:
    """A small config and its checkpoint's state."""
    config, w = vq_config(), Weights()
    first_stage(config, w, images(1, 3, 16, 16))
    return config, w


def test_missing_and_unexpected_weights_are_listed(made):
    config, w = made
    state = dict(w)
    del state["encoder.mid.attn_1.k.weight"], state["quantize.embedding.weight"]
    state["encoder.stranger"] = torch.zeros(1)
    wanted = "Missing: encoder.mid.attn_1.k.weight, quantize.embedding.weight; unexpected: encoder.stranger."
    with pytest.raises(ValueError, match=re.escape(wanted)):
        load_vqgan(saved(state), config)


def test_weights_of_another_shape_are_listed(made):
    config, w = made
    config["params"]["n_embed"] = 17
    with pytest.raises(ValueError, match=re.escape("Of another shape: quantize.embedding.weight (16, 4), wanted (17, 4)")):
        load_vqgan(saved(w), config)


def test_a_config_of_other_levels_is_no_match(made):
    config, w = made
    config["params"]["ddconfig"]["ch_mult"] = [1, 2, 2]
    with pytest.raises(ValueError, match=r"Missing: .*decoder\.up\.2\.block\.0"):
        load_vqgan(saved(w), config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "taming.models.cond_transformer.Net2NetTransformer"}, "Net2NetTransformer is no first stage .* goes to load_transformer"),
        ({"target": "taming.models.vqgan.EMAVQ"}, "EMAVQ is no first stage that can be imported: VQModel, GumbelVQ"),
        ({"params": {}}, r"the config of EMAVQ|the config of VQModel lacks params\.(ddconfig|embed_dim)"),
        ({"target": None}, "must be a dictionary with a 'target'"),
    ],
)
def test_a_wrong_config_is_named(made, change, message):
    config, w = made
    with pytest.raises(ValueError, match=message):
        load_vqgan(saved(w), config | change)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("ch", "x"), ("ch_mult", 2), ("ch_mult", [1, "2"]), ("resolution", 16.0), ("attn_resolutions", 8), ("num_res_blocks", None)),
        *(("dropout", "none"), ("z_channels", 0), ("in_channels", "3"), ("out_ch", "3")),
    ],
)
def test_a_wrong_number_of_the_networks_is_named(made, name, wrong):
    config, w = made
    config["params"]["ddconfig"][name] = wrong
    with pytest.raises(ValueError, match=rf"ddconfig\.params\.{name} must be a .*number.*, got {re.escape(repr(wrong))}"):
        load_vqgan(saved(w), config)


@pytest.mark.parametrize("name", ["n_embed", "embed_dim"])
def test_a_wrong_number_of_the_codebook_is_named(made, name):
    config, w = made
    config["params"][name] = "abc"
    with pytest.raises(ValueError, match=rf"VQModel\.params\.{name} must be a whole number of at least 1, got 'abc'"):
        load_vqgan(saved(w), config)


def test_a_resolution_that_leaves_no_code_is_named(made):
    config, w = made
    config["params"]["ddconfig"]["resolution"] = 1
    with pytest.raises(ValueError, match=r"ddconfig\.params\.resolution must be a whole number of at least 2, got 1"):
        load_vqgan(saved(w), config)


@pytest.mark.parametrize("name", ["disc_in_channels", "disc_ndf", "disc_num_layers"])
def test_a_wrong_number_of_the_critic_is_named(name):
    with pytest.raises(ValueError, match=rf"Loss\.params\.{name} must be a whole number"):
        build_critic(Config("Loss", {name: "two"}))


def test_two_moments_are_no_codes(made):
    config, w = made
    config["params"]["ddconfig"]["double_z"] = True
    with pytest.raises(ValueError, match="double_z belongs to autoencoders with a Gaussian posterior"):
        load_vqgan(saved(w), config)


def test_bad_images_and_codes_are_refused(made):
    config, w = made
    vqgan = load_vqgan(saved(w), config)
    with pytest.raises(ValueError, match="2 must divide their height and width; got 17 x 16: crop or resize them, e.g. to 16 x 16"):
        vqgan.encode(images(1, 3, 17, 16))
    with pytest.raises(ValueError, match="2 must divide their height and width; got 1 x 1: crop or resize them, e.g. to 2 x 2"):
        vqgan.encode(images(1, 3, 1, 1))  # smaller than a code
    with pytest.raises(ValueError, match="built for images of 3 channel"):
        vqgan.reconstruct(images(1, 1, 16, 16))
    with pytest.raises(TypeError, match=r"for bytes, x.float\(\) / 127.5 - 1"):
        vqgan.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="10 sites do not fill a grid of 3 x 4"):
        vqgan.decode(torch.zeros(1, 10, dtype=torch.long), (3, 4))
    with pytest.raises(ValueError, match=r"codes must lie in 0..15"):
        vqgan.decode(torch.full((1, 64), 16))
