"""Models as weights and JSON: made again as they were, and nothing from outside executed."""

import copy
import json

import pytest
import torch
from torch import nn

from latentcomp.codebook import Codebook, EMACodebook
from latentcomp.codes.masked import Decoding, uniform_share
from latentcomp.conditions import Conditioning, Coordinates, Encoded, Labels, Shifted, StartCode, Tokens
from latentcomp.described import Described
from latentcomp.likelihoods import Bernoulli
from latentcomp.model import LatentVariableModel
from latentcomp.nn.critic import PatchCritic, group_norm
from latentcomp.nn.gpt import GPT
from latentcomp.nn.gpt import Size as GPTSize
from latentcomp.nn.grid import Ordered, OrderedDecoder, SiteDecoder, SiteEncoder
from latentcomp.nn.masked import MaskedTransformer
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.nn.unet import Decoder, Encoder, Ladder
from latentcomp.noise import Noise
from latentcomp.posteriors.exact import Exact
from latentcomp.posteriors.nearest_code import NearestCode
from latentcomp.pretrained import built, description, from_pretrained, save_pretrained
from latentcomp.priors import Autoregressive, Masked, Uniform
from latentcomp.taming.presets import Size, modern
from tests.nn.vgg import vgg
from tests.scenarios import IMAGE, WIDTH, posterior, tiny_images, tiny_model

KINDS = ("nearest_code", "factorised", "softmax_distance", "prefix_mlp", "transformer")


def changed(module: nn.Module) -> nn.Module:
    """With other parameters than it was made with."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codebook", [Codebook, EMACodebook])
def test_what_is_loaded_is_what_was_saved(kind, codebook, tmp_path):
    model = changed(tiny_model(learned_prior=True, codebook=codebook).float())
    q = changed(posterior(kind).float())
    loaded = from_pretrained(save_pretrained(tmp_path / "new" / "folder", model, q, {"data": "tiny", "nll": 1.5}))
    assert loaded.about == {"data": "tiny", "nll": 1.5}
    assert {type(p) for p in (loaded.model, loaded.posterior)} == {type(model), type(q)}
    assert not loaded.model.training
    for a, b in ((model, loaded.model), (q, loaded.posterior)):
        assert str(a) == str(b)
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    x, z = tiny_images().float(), torch.tensor([[[0, 2]] * 4])
    assert torch.equal(model.eval().log_joint(x, z), loaded.model.log_joint(x, z))
    assert torch.equal(q.eval()(model, x).table(), loaded.posterior(loaded.model, x).table())


def test_convolutions_ladders_orders_and_torch_s_own_layers_are_described(tmp_path):
    ladder = Ladder(32, (1, 2), 1, ())
    decoder = OrderedDecoder(SiteDecoder(Decoder(3, 1, ladder), 3, 3, (4, 4)), Ordered(torch.arange(16).flip(0)))
    encoder = nn.Sequential(SiteEncoder(Encoder(1, 3, ladder), 3, 3), nn.Linear(3, 3, bias=False), nn.LeakyReLU(0.3))
    model = LatentVariableModel(Uniform(16, 5), Codebook(5, 3, restart=0.5), decoder, Bernoulli())
    x, q = torch.rand(2, 1, 8, 8).round(), NearestCode(encoder)
    loaded = from_pretrained(save_pretrained(tmp_path, model, q))
    assert str(loaded.posterior) == str(q)
    assert torch.equal(q.eval()(model, x).mode, loaded.posterior(loaded.model, x).mode)
    assert torch.equal(model.eval().log_likelihood(x, q(model, x).mode), loaded.model.log_likelihood(x, q(model, x).mode))
    assert loaded.model.codebook.restart == 0.5
    assert loaded.posterior.encoder[1].bias is None


def test_a_prior_that_was_fitted_afterwards_is_the_one_that_is_saved(tmp_path):
    model = tiny_model().float()
    model.prior = copy.deepcopy(tiny_model(learned_prior=True, seed=4).float().prior)
    loaded = from_pretrained(save_pretrained(tmp_path, model))
    assert isinstance(loaded.model.prior, Autoregressive)
    assert loaded.posterior is None
    z = torch.tensor([[0, 2]])
    assert torch.equal(loaded.model.prior().log_prob(z), model.prior().log_prob(z))


def test_a_copy_remembers_too_and_exact_needs_no_weights(tmp_path):
    loaded = from_pretrained(save_pretrained(tmp_path, copy.deepcopy(tiny_model().float()), Exact()))
    assert isinstance(loaded.posterior, Exact)


PRIORS = {
    "labels": lambda: Autoregressive(GPT((3,) * 2, GPTSize(5, 2, 8, 1, 2)), Conditioning(Shifted(Labels(2), 3))),
    "a first stage": lambda: Autoregressive(
        GPT((3,) * 2, GPTSize(3, 4, 8, 1, 2)), Conditioning(Encoded(tiny_model().float(), posterior("nearest_code").float()))
    ),
    "masked": lambda: Masked(MaskedTransformer((3,) * 2, 8, 1, 2, (2, 1)), Conditioning(Labels(2)), Decoding(2, schedule=uniform_share)),
}


@pytest.mark.parametrize("kind", PRIORS)
def test_conditional_priors_are_loaded_as_they_were(kind, tmp_path):
    model = tiny_model().float()
    model.prior = changed(PRIORS[kind]())
    c = tiny_images().float() if kind == "a first stage" else torch.arange(4) % 2
    prior = from_pretrained(save_pretrained(tmp_path, model.eval())).model.prior
    assert str(prior) == str(model.prior)
    a, b = model.prior(c), prior(c)
    assert torch.equal(a.sample((9,), Noise(0, 0, torch.arange(len(c)))), b.sample((9,), Noise(0, 0, torch.arange(len(c)))))
    if kind == "masked":
        z, noise = torch.tensor([[0, 2]]).expand(len(c), -1), Noise(0, 1, torch.arange(len(c)))
        assert torch.equal(a.bound(z, noise), b.bound(z, Noise(0, 1, torch.arange(len(c)))))
        assert prior.decoding == model.prior.decoding
    else:
        z = torch.tensor([[0, 2]]).expand(len(c), -1)
        assert torch.equal(a.log_prob(z), b.log_prob(z))


@pytest.mark.parametrize("stage", [Labels(3), Tokens(4), StartCode(2), Coordinates(8, 2), Shifted(Tokens(4), 3), Conditioning(Coordinates(8, 1), 2)])
def test_conditions_are_described(stage):
    again = built(json.loads(json.dumps(description(stage))), {})
    assert str(again) == str(stage)
    assert {k: v for k, v in vars(again).items() if isinstance(v, int)} == {k: v for k, v in vars(stage).items() if isinstance(v, int)}


def test_a_model_with_a_perceptual_distance_takes_its_weights_along(tmp_path):
    pytest.importorskip("lpips")
    torch.save(vgg(), tmp_path / "vgg16.pth")
    size = Size((3, 16, 16), codes=8, width=4, features=32, channels=32, multipliers=(1, 2), blocks=1, critic=8, critic_layers=1)
    model, learner = modern(size, tmp_path / "vgg16.pth")
    q = learner.posterior.eval()
    save_pretrained(tmp_path, model.eval(), q)
    (tmp_path / "vgg16.pth").unlink()
    text = (tmp_path / "config.json").read_text()
    assert "vgg16" not in text
    loaded, x = from_pretrained(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    z = q(model, x).mode
    assert torch.equal(loaded.posterior(loaded.model, x).mode, z)
    assert torch.equal(loaded.model.log_joint(x, z), model.log_joint(x, z))
    assert not any(p.requires_grad for p in loaded.model.likelihood.parameters())
    config = json.loads(text)
    config["model"]["arguments"]["likelihood"]["arguments"]["distance"]["arguments"]["weights"] = "/a/stranger/s.path"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(from_pretrained(tmp_path).model.log_joint(x, z), model.log_joint(x, z)), "a path in a description is not read"


def a_norm(channels: int) -> nn.Module:
    """One's own."""
    return nn.GroupNorm(1, channels)


def test_functions_are_named_if_they_only_compute_or_are_trusted():
    critic = PatchCritic(3, 8, 1, group_norm)
    described = json.loads(json.dumps(description(critic)))
    assert described["arguments"]["norm"] == {"function": "latentcomp.nn.critic.group_norm"}
    assert str(built(described, {})) == str(critic)
    own = description(PatchCritic(3, 8, 1, a_norm))
    with pytest.raises(ValueError, match=r"names 'tests\.test_pretrained\.a_norm'.*pass trusted=\[a_norm\]"):
        built(own, {})
    assert str(built(own, {"tests.test_pretrained.a_norm": a_norm})) == str(PatchCritic(3, 8, 1, a_norm))
    with pytest.raises(TypeError, match=r"critic\.norm is the function .*<lambda>, which has no name of its own: define it with def"):
        description(PatchCritic(3, 8, 1, lambda channels: nn.GroupNorm(1, channels)), "critic")
    for name in ("os.system", "latentcomp.pretrained.from_pretrained", "latentcomp.pretrained.importlib", "latentcomp.nn.critic.nameable"):
        with pytest.raises(ValueError, match=f"names '{name}', which is no nameable function of latentcomp"):
            built({"class": "latentcomp.nn.critic.PatchCritic", "arguments": {"norm": {"function": name}}}, {})


class Own(nn.Module):
    """A decoder that does not remember."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = ImageDecoder(2, WIDTH, (4,), IMAGE)
        self.scale = scale

    def forward(self, e):
        """Logits."""
        return self.scale * self.inner(e)


class Remembering(Described, Own):
    """One that does."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)


def test_a_class_of_one_s_own_must_remember_and_be_trusted(tmp_path):
    forgetful = LatentVariableModel(Uniform(2, 3), Codebook(3, WIDTH), Own(2.0), Bernoulli())
    with pytest.raises(TypeError, match=r"model\.decoder is a Own, which does not remember .*class Own\(Described, nn\.Module\)"):
        save_pretrained(tmp_path, forgetful)
    model = LatentVariableModel(Uniform(2, 3), Codebook(3, WIDTH), Remembering(2.0), Bernoulli())
    save_pretrained(tmp_path, model)
    with pytest.raises(ValueError, match=r"names 'tests\.test_pretrained\.Remembering'.*pass trusted=\[Remembering\]"):
        from_pretrained(tmp_path)
    assert from_pretrained(tmp_path, trusted=[Remembering]).model.decoder.scale == 2.0


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "latentcomp.pretrained.importlib", "torch.nn.modules.module.torch", "latentcomp.checkpoint.save"]
)
def test_a_configuration_that_names_anything_else_is_refused(name, tmp_path):
    save_pretrained(tmp_path, tiny_model().float())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["arguments"]["decoder"] = {"class": name, "arguments": {"*": ["touch fired"]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"names '{name}', which is no module of latentcomp or torch\.nn"):
        from_pretrained(tmp_path)


def test_damage_is_named(tmp_path):
    save_pretrained(tmp_path, tiny_model().float())
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for bad in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        weights.write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format": 7}')
    with pytest.raises(ValueError, match="no configuration of format 1"):
        from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        from_pretrained(tmp_path)


def test_the_hub_s_mixin_writes_and_reads_the_same_files(tmp_path):
    pytest.importorskip("huggingface_hub")
    from latentcomp.hub import HubModel

    model, q = tiny_model().float(), posterior("prefix_mlp").float()
    HubModel(model, q, {"data": "tiny"}).save_pretrained(tmp_path)
    loaded = HubModel.from_pretrained(str(tmp_path))
    assert loaded.about == {"data": "tiny"}
    x = tiny_images().float()
    assert torch.equal(loaded.posterior(loaded.model, x).table(), q(model, x).table())
    assert from_pretrained(tmp_path).about == {"data": "tiny"}
