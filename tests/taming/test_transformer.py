"""Every kind of published transformer gives the published logits, with and without its cache, and says what is wrong with what it is given."""

import copy

import pytest
import torch

from latentcomp.conditions import Coordinates, Labels, StartCode, Tokens
from latentcomp.nn.orders import ORDERS
from latentcomp.noise import Noise
from latentcomp.sampling import Drawing, Everywhere, patchwork
from latentcomp.taming import FirstStage, load_transformer
from tests.taming.published import Weights, first_stage, gpt, images, net_config, vq_config
from tests.taming.test_first_stage import saved

DEPTH = vq_config(codes=16, in_channels=1, out_ch=1, ch_mult=[1, 1, 2], attn_resolutions=[4])
DEPTH["params"]["sane_index_shape"] = True  # without it the published code cannot use such a condition
SCENE = {"target": "taming.models.dummy_cond_stage.DummyCondStage", "params": {"conditional_key": "objects_bbox"}}


def made(config: dict) -> Weights:
    """The state of a tiny checkpoint: both image stages, the transformer, the order."""
    params, w = config["model"]["params"], Weights()
    for name, prefix in (("first_stage_config", "first_stage_model."), ("cond_stage_config", "cond_stage_model.")):
        if isinstance(params[name], dict) and "ddconfig" in params[name].get("params", {}):
            first_stage(params[name], w, images(1, params[name]["params"]["ddconfig"]["in_channels"], 16, 16), prefix)
    gpt(params["transformer_config"], w, torch.zeros(1, 4, dtype=torch.long))
    if "permuter_config" in params:
        order = ORDERS[params["permuter_config"]["target"].split(".")[-1]](8, 8)
        w |= {"permuter.forward_shuffle_idx": order, "permuter.backward_shuffle_idx": order.argsort()}
    return w


def labels() -> dict:
    """Class labels, ten of them."""
    return {"target": "taming.modules.util.Labelator", "params": {"n_classes": 10}}


def coordinates() -> dict:
    """Positions, sixteen steps on squares of two pixels."""
    return {"target": "taming.modules.misc.coord.CoordStage", "params": {"n_embed": 15, "down_factor": 2}}


KINDS = {
    "labels": (net_config(labels()), lambda: torch.tensor([3, 9]), Labels),
    "coordinates": (net_config(coordinates()), lambda: images(2, 1, 16, 16).abs(), Coordinates),
    "unconditional by name": (net_config("__is_unconditional__", sos_token=5), lambda: images(2, 3, 16, 16), StartCode),
    "unconditional by flag": (net_config(labels(), unconditional=True), lambda: torch.zeros(2, 7), StartCode),
    "start code": (net_config({"target": "taming.modules.util.SOSProvider", "params": {"sos_token": 2}}), lambda: torch.zeros(2), StartCode),
    "depth maps": (net_config(DEPTH), lambda: images(2, 1, 16, 16), FirstStage),
    "small depth maps": (net_config(DEPTH, downsample_cond_size=8), lambda: images(2, 1, 16, 16), FirstStage),
    "scenes": (net_config(SCENE), lambda: torch.tensor([[1, 2, 3], [4, 5, 6]]), Tokens),
    "both directions": (net_config(DEPTH, gpt={"n_unmasked": 16}), lambda: images(2, 1, 16, 16), FirstStage),
    "another order": (net_config(labels(), permuter_config={"target": "x.ZCurve", "params": {"H": 8, "W": 8}}), lambda: torch.tensor([3, 9]), Labels),
    "Gumbel": (net_config(labels(), stage=vq_config("GumbelVQ", width=8)), lambda: torch.tensor([3, 9]), Labels),
}
kinds = pytest.mark.parametrize(("config", "condition", "stage"), KINDS.values(), ids=KINDS.keys())


def expected_condition(config: dict, w: Weights, c: torch.Tensor) -> torch.Tensor:
    """The condition's codes, from the published description."""
    params = config["model"]["params"]
    stage = params["cond_stage_config"]
    if stage == "__is_unconditional__" or params.get("unconditional"):
        return torch.full((len(c), 1), params.get("sos_token", 0))
    kind = stage["target"].split(".")[-1]
    if kind == "SOSProvider":
        return torch.full((len(c), 1), stage["params"]["sos_token"])
    if kind == "CoordStage":
        return (15 * torch.nn.functional.avg_pool2d(c, 2)).round().long().flatten(1)
    if kind == "VQModel":
        c = c[..., ::2, ::2] if params.get("downsample_cond_size") else c
        return first_stage(stage, w, c, "cond_stage_model.")[0]
    return c if c.ndim == 2 else c[:, None]


@kinds
@torch.no_grad()
def test_conditions_codes_logits_and_images_equal_the_published_ones(config, condition, stage):
    w, c, x, params = made(config), condition(), images(2, 3, 16, 16), config["model"]["params"]
    transformer = load_transformer(saved(w), config)
    assert isinstance(transformer.condition_stage, stage)
    r = transformer.encode_condition(c)
    assert torch.equal(r, expected_condition(config, w, c))
    z, decoded = first_stage(params["first_stage_config"], w, x, "first_stage_model.")
    z = z[:, w["permuter.forward_shuffle_idx"]] if "permuter_config" in params else z
    assert torch.equal(transformer.encode(x), z)
    logits = gpt(params["transformer_config"], w, torch.cat([r, z[:, :-1]], 1))[:, r.shape[1] - 1 :]
    torch.testing.assert_close(transformer.logits(z, r), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transformer.logits(z[:, :5], r), logits[:, :5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transformer.decode(z), decoded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transformer.model.decode(transformer.model.codebook(z)).mean, decoded, rtol=1e-4, atol=1e-4)


@kinds
@torch.no_grad()
def test_the_cache_changes_nothing(config, condition, stage):
    transformer = load_transformer(saved(made(config)), config).double()
    r = transformer.encode_condition(condition() if condition().dtype == torch.long else condition().double())
    network, z = transformer.network.of_length(6), torch.randint(16, (2, 6), generator=torch.Generator().manual_seed(0))
    cache, cached = network.start(2, r), []
    for site in range(6):
        cached.append(network.advance(cache, site, z[:, site - 1] if site else None))
    assert (torch.stack(cached, 1) - transformer.logits(z, r)).abs().max() < 1e-10


@kinds
@torch.no_grad()
def test_greedy_codes_are_the_best_ones_one_after_the_other(config, condition, stage):
    w, steps = made(config), 6
    transformer = load_transformer(saved(w), config)
    r = transformer.encode_condition(condition())
    codes = r
    for _ in range(steps):
        codes = torch.cat([codes, gpt(config["model"]["params"]["transformer_config"], w, codes)[:, -1:].argmax(-1)], 1)
    assert torch.equal(transformer.sample(r, steps, greedy=True), codes[:, r.shape[1] :])


@kinds
@torch.no_grad()
def test_the_model_scores_what_it_dreams(config, condition, stage):
    """log p(z|c) is the sum of the published conditionals; without a condition the prior has no batch."""
    w = made(config)
    transformer, c = load_transformer(saved(w), config), condition()
    unconditional = isinstance(transformer.condition_stage, StartCode)
    x, z = transformer.model.sample(2, None if unconditional else c)
    r = transformer.encode_condition(c)
    log_p = transformer.logits(z, r).log_softmax(-1).gather(-1, z.unsqueeze(-1)).sum((-2, -1))
    prior = transformer.model.prior(None if unconditional else c)
    assert prior.batch_shape == (() if unconditional else (2,))
    torch.testing.assert_close(prior.log_prob(z), log_p, rtol=1e-4, atol=1e-3)
    assert x.shape == (2, 3, 16, 16)


@pytest.fixture(scope="module")
def transformer():
    """The class-conditional one."""
    config = net_config(labels(), gpt={"vocab_size": 20})
    return load_transformer(saved(made(config)), config)


def test_first_stage_as_its_own_condition():
    config = net_config("__is_first_stage__")
    w, x = made(config), images(2, 3, 16, 16)
    w |= {name.replace("first", "cond", 1): tensor for name, tensor in w.items() if name.startswith("first_stage_model.")}
    transformer = load_transformer(saved(w), config)
    assert transformer.condition_stage is transformer.first_stage
    assert torch.equal(transformer.encode_condition(x), transformer.first_stage.encode(x))
    w["cond_stage_model.quant_conv.bias"] = w["cond_stage_model.quant_conv.bias"] + 1
    with pytest.raises(ValueError, match=r"cond_stage_model.quant_conv.bias differs from the first stage's"):
        load_transformer(saved(w), config)


def test_label_maps_that_are_shrunk_first_may_come_as_labels():
    """As without shrinking: the same codes as of their one-hot channels."""
    config = net_config(vq_config("VQSegmentationModel", in_channels=5, out_ch=5), downsample_cond_size=8)
    c = torch.randint(5, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    transformer = load_transformer(saved(made(config)), config)
    r = transformer.encode_condition(c)
    assert r.shape == (2, 16)
    for same in (c.float(), torch.eye(5)[c[:, 0]].movedim(-1, 1)):
        assert torch.equal(transformer.encode_condition(same), r)


def test_draws_follow_their_noise_and_their_settings(transformer):
    r, index = transformer.encode_condition(torch.tensor([3, 9])), torch.arange(2)
    z = transformer.sample(r, 8, noise=Noise(0, 0, index))
    assert torch.equal(z, transformer.sample(r, 8, noise=Noise(0, 0, index)))
    assert torch.equal(z[1:], transformer.sample(r[1:], 8, noise=Noise(0, 0, index[1:])))  # however the batch is split
    assert not torch.equal(z, transformer.sample(r, 8, noise=Noise(1, 0, index)))
    greedy = transformer.sample(r, 8, greedy=True)
    assert torch.equal(transformer.sample(r, 8, top_k=1), greedy)
    assert torch.equal(transformer.sample(r, 8, top_p=1e-6), greedy)
    assert torch.equal(transformer.sample(r, 8, temperature=1e-4), greedy)
    everything = transformer.network.size.vocabulary
    assert torch.equal(transformer.sample(r, 8, top_k=everything, top_p=1.0, noise=Noise(0, 0, index)), z)
    torch.manual_seed(0)
    first = transformer.sample(r, 8)
    torch.manual_seed(0)
    assert torch.equal(transformer.sample(r, 8), first)


def test_codes_that_only_conditions_have_are_never_drawn(transformer):
    """The vocabulary has four codes more than the codebook, and the head likes them best."""
    changed = copy.deepcopy(transformer)
    changed.network.head.weight.data[16:] = changed.network.head.weight.data[:4] * 3
    r = changed.encode_condition(torch.tensor([3, 9]))
    assert changed.logits(torch.zeros(2, 8, dtype=torch.long), r).shape == (2, 8, 20)
    assert changed.sample(r, 64).max() < 16


def test_a_label_or_a_code_outside_its_range_is_refused(transformer, unchecked):
    with pytest.raises(ValueError, match=r"labels must lie in 0..9; got values from 3 to 10"):
        transformer.encode_condition(torch.tensor([3, 10]))
    with pytest.raises(TypeError, match="labels are whole numbers"):
        transformer.encode_condition(torch.tensor([3.0]))
    z, r = torch.zeros(1, 4, dtype=torch.long), torch.tensor([[20]])
    with pytest.raises(ValueError, match=r"vocabulary 0..19; got values from 0 to 20"):
        transformer.logits(z, r)
    with pytest.raises(ValueError, match=r"vocabulary 0..19; got values from 20 to 20"):
        transformer.sample(r, 3)


def test_codes_of_a_wrong_kind_or_shape_are_refused(transformer, unchecked):
    z, r = torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 1, dtype=torch.long)
    for wrong in (torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)):
        with pytest.raises(TypeError, match="z holds codes, which are whole numbers"):
            transformer.logits(wrong, r)
    with pytest.raises(ValueError, match=r"z must have shape \(B, number of codes\), at least one code; got \(2, 0\)"):
        transformer.logits(z[:, :0], r)
    with pytest.raises(ValueError, match=r"r must have shape .* got \(2,\)"):
        transformer.sample(r[:, 0], 4)
    with pytest.raises(ValueError, match="there are 2 rows of z, 1 rows of r"):
        transformer.logits(z, r[:1])
    with pytest.raises(ValueError, match=r"labels have shape \(B,\)"):
        transformer.encode_condition(r)
    with pytest.raises(ValueError, match=r"codes have shape \(B, N\), row by row; got \(2, 8, 8\)"):
        transformer.decode(torch.zeros(2, 8, 8, dtype=torch.long))


def test_too_long_sequences_and_wrong_settings_are_refused(transformer):
    r = torch.tensor([[3]])
    assert transformer.sample(r, 128).shape == (1, 128)  # 1 + 128 - 1 positions
    with pytest.raises(ValueError, match="need as many positions"):
        transformer.sample(r, 129)
    with pytest.raises(ValueError, match="reads at most 128 codes"):
        transformer.sample(r.expand(1, 2), 128)
    with pytest.raises(ValueError, match="reads at most 128 codes"):
        transformer.logits(torch.zeros(1, 129, dtype=torch.long), r)
    with pytest.raises(ValueError, match="at least one code"):
        transformer.sample(r, 0)
    with pytest.raises(ValueError, match="top_k .* at least 1; got 0"):
        transformer.sample(r, 4, top_k=0)
    with pytest.raises(ValueError, match=r"top_k=1000 codes cannot stay of V="):
        transformer.sample(r, 4, top_k=1000)
    with pytest.raises(ValueError, match=r"top_p .* \(0, 1\]; got 1.5"):
        transformer.sample(r, 4, top_p=1.5)
    with pytest.raises(ValueError, match="temperature must be positive"):
        transformer.sample(r, 4, temperature=0.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (vq_config(), "of VQModel, not of Net2NetTransformer: a first stage alone goes to load_vqgan"),
        (net_config(labels(), gpt={"vocab_size": 8}), r"vocab_size \(8\) does not hold the first stage's 16 codes"),
        (net_config({"target": "x.Stranger"}), "Stranger is no condition stage .* Labelator, CoordStage"),
        (net_config("Stranger"), r"cond_stage_config must be a dictionary with a 'target'"),
        (net_config(labels(), permuter_config={"target": "x.Stranger"}), "Stranger is no known order of sites: Identity, Subsample"),
        (net_config(labels(), transformer_config={"target": "x.CodeGPT"}), "CodeGPT cannot be imported: the transformer must be a GPT"),
    ],
)
def test_a_wrong_config_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        load_transformer(saved(made(net_config(labels()))), config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *(
            (net_config(labels(), gpt={name: "two"}), rf"GPT\.params\.{name} must be a whole")
            for name in ("vocab_size", "n_layer", "n_head", "n_embd", "block_size")
        ),
        (net_config(labels(), gpt={"n_unmasked": -1}), r"GPT\.params\.n_unmasked must be a whole number of at least 0, got -1"),
        (net_config(labels(), gpt={"resid_pdrop": "0.1"}), r"GPT\.params\.resid_pdrop must be a number in \[0, 1\], got '0.1'"),
        (net_config({"target": "x.Labelator", "params": {"n_classes": "ten"}}), r"Labelator\.params\.n_classes must be a whole"),
        (net_config({"target": "x.CoordStage", "params": {"n_embed": 15, "down_factor": 0}}), r"CoordStage\.params\.down_factor must be a whole"),
        (net_config({"target": "x.SOSProvider", "params": {"sos_token": "a"}}), r"SOSProvider\.params\.sos_token must be a whole"),
        (net_config("__is_unconditional__", sos_token=-1), r"Net2NetTransformer\.params\.sos_token must be a whole"),
        (net_config(labels(), downsample_cond_size="8"), r"Net2NetTransformer\.params\.downsample_cond_size must be a whole number of at least -1, got '8'"),
        (net_config(labels(), permuter_config={"target": "x.ZCurve", "params": {"H": "8", "W": 8}}), r"ZCurve\.params\.H must be a whole"),
    ],
)
def test_a_wrong_number_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        load_transformer(saved(made(net_config(labels()))), config)


def test_heads_cannot_be_guessed():
    config = net_config(labels())
    w = made(config)
    del config["model"]["params"]["transformer_config"]["params"]["n_head"]
    with pytest.raises(ValueError, match="the config of GPT lacks params.n_head"):
        load_transformer(saved(w), config)


def test_missing_and_unexpected_weights_are_listed_by_their_published_names():
    config = net_config(labels(), permuter_config={"target": "x.ZCurve", "params": {"H": 8, "W": 8}})
    w = made(config)
    del w["transformer.blocks.1.attn.query.bias"], w["permuter.backward_shuffle_idx"]
    w["transformer.blocks.2.ln1.weight"] = torch.zeros(8)
    wanted = "Missing: permuter.backward_shuffle_idx, transformer.blocks.1.attn.query.bias; unexpected: transformer.blocks.2.ln1.weight"
    with pytest.raises(ValueError, match=wanted):
        load_transformer(saved(w), config)


def test_an_order_that_is_none_is_refused():
    config = net_config(labels(), permuter_config={"target": "x.ZCurve", "params": {"H": 8, "W": 8}})
    w = made(config)
    with pytest.raises(ValueError, match="the order of the sites and the stored inverse do not belong together"):
        load_transformer(saved(w | {"permuter.backward_shuffle_idx": torch.arange(64)}), config)


def test_a_first_stage_of_larger_images_serves_the_square_that_the_transformer_can_write():
    config = net_config(labels(), stage=vq_config(resolution=64, attn_resolutions=[32]))
    transformer = load_transformer(saved(made(config)), config)
    assert transformer.grid == (11, 11)  # of 128 positions
    with torch.no_grad():
        x, z = transformer.model.sample(1, torch.tensor([3]))
        assert x.shape == (1, 3, 22, 22)
        torch.testing.assert_close(transformer.decode(z), transformer.model.decode(transformer.model.codebook(z)).mean)
    config = net_config(coordinates(), stage=vq_config(resolution=64, attn_resolutions=[32]))
    assert load_transformer(saved(made(config)), config).grid == (8, 8)  # as many sites again for the condition


def test_the_order_says_which_grid_it_is_for():
    config = net_config(labels(), permuter_config={"target": "x.AlternateParsing", "params": {"H": 4, "W": 6}})
    w, x = made(config), images(1, 3, 8, 12)
    order = ORDERS["AlternateParsing"](4, 6)
    w |= {"permuter.forward_shuffle_idx": order, "permuter.backward_shuffle_idx": order.argsort()}
    transformer = load_transformer(saved(w), config)
    assert transformer.model.image_shape == (3, 8, 12)
    with torch.no_grad():
        z = transformer.encode(x)
        assert torch.equal(z, transformer.first_stage.encode(x)[:, order])
        torch.testing.assert_close(transformer.decode(z), transformer.first_stage.reconstruct(x))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [pytest.param("Identity", marks=pytest.mark.slow), "SpiralOut"])
@torch.no_grad()
def test_samples_parts_and_windows_follow_the_published_order(name):
    permuted = {} if name == "Identity" else {"permuter_config": {"target": f"x.{name}", "params": {"H": 8, "W": 8}}}
    config = net_config(labels(), **permuted)
    transformer, c, drawing = load_transformer(saved(made(config)), config), torch.tensor([3, 9]), Drawing(top_k=5)
    order, noise = ORDERS[name](8, 8), lambda: Noise(1, 0, torch.arange(2))
    r, q = transformer.encode_condition(c), drawing(transformer.prior, c)
    written = transformer.sample(r, 64, top_k=5, noise=noise())
    z = torch.zeros_like(written)
    z[:, order] = written
    assert torch.equal(q.sample((), noise()), z)
    torch.testing.assert_close(transformer.prior(c).log_prob(z), transformer.model.prior(c).log_prob(written))
    lower = (torch.arange(64) >= 32).expand(2, -1)
    other = q.completed(z.roll(1, 0), lower, noise())
    assert torch.equal(other[:, :32], z.roll(1, 0)[:, :32]), "the upper half of the picture stays, whenever it is written"
    write = lambda grid: patchwork(lambda r: drawing.given(transformer.prior, r), grid, transformer.grid, 2, Everywhere(r), noise=noise())  # noqa: E731
    assert torch.equal(write((8, 8)).flatten(1), z)
    assert torch.equal(write((8, 11))[:, :, :8].flatten(1), z)
