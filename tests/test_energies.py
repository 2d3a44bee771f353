"""A perceptual energy is its parts over the temperature, a generalised posterior where there are few codes, and no likelihood."""

import pytest
import torch
from torch import nn

from latentcomp.codebook import Codebook
from latentcomp.energies import PerceptualEnergy
from latentcomp.enumeration import all_codes
from latentcomp.evaluate.exact import log_px
from latentcomp.evaluate.importance import log_px as estimated_log_px
from latentcomp.likelihoods import Laplace
from latentcomp.model import LatentVariableModel
from latentcomp.nn.mlp import ImageDecoder
from latentcomp.posteriors.exact import Exact
from latentcomp.priors import Uniform
from tests.scenarios import IMAGE, posterior, tiny_images


class Edges(nn.Module):
    """A distance that looks at neighbours: squared differences of differences."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One number for each y."""
        return (x.diff(dim=-1) - y.diff(dim=-1)).square().mean((-3, -2, -1))


def energy_model(temperature: float = 0.05, **weights: float) -> LatentVariableModel:
    """A tiny model with an energy."""
    torch.manual_seed(0)
    likelihood = PerceptualEnergy(Edges(), temperature, **weights)
    return LatentVariableModel(Uniform(2, 3), Codebook(3, 2), ImageDecoder(2, 2, (8,), IMAGE), likelihood).double()


def by_hand(x: torch.Tensor, x_hat: torch.Tensor, weight: float, pixel_weight: float) -> float:
    """E of one pair, written out over pixels."""
    c, h, w = x.shape
    l1 = sum(abs(float(x[i, j, k] - x_hat[i, j, k])) for i in range(c) for j in range(h) for k in range(w)) / (c * h * w)
    edges = [float((x[i, j, k + 1] - x[i, j, k]) - (x_hat[i, j, k + 1] - x_hat[i, j, k])) for i in range(c) for j in range(h) for k in range(w - 1)]
    return pixel_weight * l1 + weight * sum(e**2 for e in edges) / len(edges)


@pytest.mark.parametrize(("temperature", "weight", "pixel_weight"), [(1.0, 1.0, 1.0), (0.05, 0.3, 2.0), (0.5, 1.0, 0.0)])
def test_it_is_minus_the_energy_over_the_temperature(temperature, weight, pixel_weight):
    x, x_hat = tiny_images(3), torch.rand(2, 3, *IMAGE, dtype=torch.float64)
    p = PerceptualEnergy(Edges(), temperature, weight, pixel_weight)(x_hat)
    wanted = torch.tensor([[by_hand(x[b], x_hat[s, b], weight, pixel_weight) for b in range(3)] for s in range(2)], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), -wanted / temperature)
    torch.testing.assert_close(sum(p.terms(x).values()), wanted / temperature)
    assert set(p.terms(x)) == ({"l1", "perceptual"} if pixel_weight else {"perceptual"})
    assert torch.equal(p.mean, x_hat)


def test_the_l1_part_alone_is_laplace_up_to_a_constant():
    """-log p of pixels of scale s is |x - x_hat| / s and a constant: E / T with T = s / pixels."""
    x, x_hat = tiny_images(3), torch.rand(4, 3, *IMAGE, dtype=torch.float64)
    scale, pixels = 0.3, 6
    difference = PerceptualEnergy(temperature=scale / pixels)(x_hat).log_prob(x) - Laplace(scale).double()(x_hat).log_prob(x)
    torch.testing.assert_close(difference, difference[:1, :1].expand(4, 3))


def test_the_exact_posterior_is_the_generalised_one():
    model, x = energy_model(), tiny_images(3)
    codes = all_codes(model.cardinalities)
    with torch.no_grad():
        images = model.decoder(model.codebook(codes))
        weights = torch.tensor([[-by_hand(image, made, 1.0, 1.0) / 0.05 for made in images] for image in x], dtype=torch.float64).exp()
    torch.testing.assert_close(Exact()(model, x).table().exp(), weights / weights.sum(-1, keepdim=True))


class Paired(Edges):
    """The same distance, of all pairs at once."""

    def cross(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Of all pairs."""
        return (x.diff(dim=-1).unsqueeze(1) - y.diff(dim=-1)).square().mean((-3, -2, -1))


@pytest.mark.parametrize("weights", [{}, {"pixel_weight": 0.0}, {"weight": 0.0}, {"weight": 0.3, "pixel_weight": 2.0}])
def test_all_pairs_are_the_pairs_one_by_one(weights):
    x, x_hat = tiny_images(3), torch.rand(4, *IMAGE, dtype=torch.float64)
    wanted = torch.tensor([[by_hand(a, b, **{"weight": 1.0, "pixel_weight": 1.0} | weights) for b in x_hat] for a in x], dtype=torch.float64)
    for distance in (Edges(), Paired()):
        torch.testing.assert_close(PerceptualEnergy(distance, 0.05, **weights)(x_hat).cross_log_prob(x), -wanted / 0.05)


def test_it_never_enters_a_column_of_nats_and_nothing_is_dreamt_from_it():
    model, x = energy_model(), tiny_images(3)
    for refused in (lambda: log_px(model, x), lambda: estimated_log_px(model, posterior("factorised"), x), lambda: model.sample(2)):
        with pytest.raises(ValueError, match="PerceptualEnergy is an unnormalised energy"):
            refused()
    p = model.decode(model.codebook(torch.zeros(3, 2, dtype=torch.long)))
    for method in (p.log_prob_pixels, p.quantile):
        with pytest.raises(ValueError, match="a perceptual energy is"):
            method(x)


def test_half_precision_is_left_behind(unchecked):
    x = torch.rand(2, *IMAGE)
    assert PerceptualEnergy(Edges(), 1.0)(torch.rand(2, *IMAGE).bfloat16()).log_prob(x).dtype == torch.float32


@pytest.mark.parametrize("temperature", [None, 0.0, -1.0, float("nan")])
def test_a_temperature_must_be_given(temperature):
    with pytest.raises(ValueError, match=r"its temperature T > 0 decides how sure the posterior is; got temperature=.*pass temperature=1.0"):
        PerceptualEnergy(Edges(), temperature)


@pytest.mark.parametrize("arguments", [{"weight": -1.0}, {"pixel_weight": -1.0}, {"weight": 0.0, "pixel_weight": 0.0}, {"distance": None, "pixel_weight": 0.0}])
def test_an_energy_of_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="an energy needs a part of positive weight"):
        PerceptualEnergy(**{"distance": Edges(), "temperature": 1.0} | arguments)
