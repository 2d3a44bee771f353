"""Whatever a model may be made of is described as JSON, saved, and made again as it was."""

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import latentcomp
from latentcomp.codebook import Codebook
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.space import Space
from latentcomp.codebook.start import Start
from latentcomp.described import Described
from latentcomp.likelihoods import Bernoulli, Likelihood
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.posteriors.posterior import Posterior
from latentcomp.pretrained import description, from_pretrained, save_pretrained
from latentcomp.priors import Prior, Uniform
from tests.parts import LARGE, PARTS
from tests.scenarios import IMAGE, tiny_model

NO_PART = {  # of a model that is published
    "latentcomp.learners": "how a model learns: what is published is the model and the posterior",
    "latentcomp.phases": "parts of learners",
    "latentcomp.moves": "kernels, which learners use",
    "latentcomp.evaluate": "judges of images and models, whose networks come from files of their own",
    "latentcomp.pyro": "wraps a program, which no file can hold",
    "latentcomp.torchgfn": "hands a model to another package",
    "latentcomp.likelihoods.Likelihood": "what the families have in common",
    "latentcomp.described.Described": "the mixin itself",
}


def found() -> list[type]:
    """All public modules and described classes of the package that can be made; not of what is excepted as a whole, which takes seconds to import."""
    kinds: set[type] = set()
    for module in map(importlib.import_module, (path for path in modules() if not excepted(path))):
        own = (kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__)
        kinds |= {kind for kind in own if issubclass(kind, nn.Module | Described) and not kind.__name__.startswith("_") and not inspect.isabstract(kind)}
    return sorted(kinds, key=name)


def modules() -> list[str]:
    """The names of all modules of the package."""
    root = Path(latentcomp.__file__).parent.parent
    return sorted(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in (root / "latentcomp").rglob("*.py"))


def name(kind: type) -> str:
    """With its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def excepted(what: str) -> bool:
    """By its name, or that of what it stands in."""
    return any(f"{what}.".startswith(f"{prefix}.") for prefix in NO_PART)


def test_every_class_is_tried_or_excepted_with_a_reason():
    names = [name(kind) for kind in found()]
    assert {each for each in names if not excepted(each)} == {name(kind) for kind in PARTS}
    assert NO_PART.keys() <= {*names, *modules()}, "an exception for nothing"


def placed(part: Any) -> tuple[LatentVariableModel, Posterior | None]:
    """A model, and a posterior, with the part where it belongs: anything without a place of its own stands for the decoder."""
    if isinstance(part, LatentVariableModel):
        return part, None
    codebook = part if isinstance(part, Geometry) else Codebook(3, 2)
    if isinstance(part, Start | Space):
        codebook = Codebook(3, 2, **{"start" if isinstance(part, Start) else "space": part})
    prior = part if isinstance(part, Prior) else Uniform(2 * codebook.depth, codebook.codes)
    if max(prior.cardinalities) != codebook.codes:
        codebook = Codebook(max(prior.cardinalities), 2)
    likelihood = part if isinstance(part, Likelihood) else Bernoulli()
    of_its_own = isinstance(part, Geometry | Start | Space | Prior | Likelihood | Posterior)
    decoder = ImageDecoder(2, codebook.width, (4,), IMAGE) if of_its_own else part
    return LatentVariableModel(prior, codebook, decoder, likelihood).eval(), part if isinstance(part, Posterior) else None


def found_again(part: Any, model: LatentVariableModel, posterior: Posterior | None) -> Any:
    """The part that was placed."""
    if isinstance(part, LatentVariableModel):
        return model
    if isinstance(part, Start):
        return model.codebook.start
    if isinstance(part, Space):
        return model.codebook.space
    where = {Geometry: "codebook", Prior: "prior", Likelihood: "likelihood"}
    return posterior if isinstance(part, Posterior) else getattr(model, next((place for kind, place in where.items() if isinstance(part, kind)), "decoder"))


@torch.no_grad()
def stirred(part: Any) -> Any:
    """In evaluation mode, with other numbers than it was made with."""
    if isinstance(part, nn.Module):
        for key, tensor in part.state_dict().items():
            if tensor.is_floating_point() and "scaling_layer" not in key:
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)))
        part.eval()
    return part


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in LARGE else ()) for kind in PARTS], ids=name)
def test_it_is_saved_and_loaded_as_it_was(kind, tmp_path):
    if "lpips" in kind.__module__:
        pytest.importorskip("lpips")
    make, ask = PARTS[kind]
    part = stirred(make())
    assert type(part) is kind
    loaded = from_pretrained(save_pretrained(tmp_path, *placed(part)))
    again = found_again(part, *loaded[:2])
    assert type(again) is kind
    assert description(again) == description(part) == json.loads(json.dumps(description(part)))
    assert str(again) == str(part) or not isinstance(part, nn.Module)
    if isinstance(part, nn.Module):
        assert part.state_dict().keys() == again.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(part.state_dict().values(), again.state_dict().values(), strict=True))
    if ask is not None:
        assert torch.equal(ask(part), ask(again))


def test_loading_changes_no_generator(tmp_path):
    """Modules are made with random weights before theirs are put in."""
    save_pretrained(Path(tmp_path), tiny_model().float())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    from_pretrained(tmp_path)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("layer", [lambda: nn.LSTM(3, 4), lambda: nn.MultiheadAttention(4, 2), lambda: nn.TransformerEncoderLayer(4, 2)])
def test_a_layer_of_torch_that_does_not_say_what_it_was_made_with_is_refused_when_it_is_saved(layer, tmp_path):
    model = tiny_model().float()
    model.decoder = nn.Sequential(layer())
    with pytest.raises(TypeError, match=r"model\.decoder\.\*\[0\] is a \w+, which does not say what it was made with .* derives from latentcomp\.described"):
        save_pretrained(tmp_path, model)
    assert not list(tmp_path.iterdir())
