"""With the model frozen, the GFlowNet E-step reaches the exact posterior."""

import pytest
import torch

from latentcomp import objectives
from latentcomp.batch import Batch
from latentcomp.energies import PerceptualEnergy
from latentcomp.evaluate.exact import exact
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.nn.mlp import ImageTrunk
from latentcomp.nn.prefix_mlp import PrefixMLP
from latentcomp.phases.behaviour import OnPolicy
from latentcomp.phases.e_step import AmortisedLogZ, LogVariance, TrajectoryBalance
from latentcomp.phases.schedule import OnlyE
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.train import fit
from tests.learners.contract import adam, assert_same, state
from tests.scenarios import IMAGE, tiny_model
from tests.test_energies import Edges, by_hand

WIDTH, UPDATES = 32, 350
X = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).view(-1, *IMAGE)[::4]  # 16 of the 64 images


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("objective", ["log_variance", "log_z_of_x"])
def test_the_e_step_reaches_a_thousandth_of_a_nat(objective):
    model = tiny_model().float()
    torch.manual_seed(1)
    q = Autoregressive(ImageTrunk(IMAGE, (WIDTH, WIDTH)), PrefixMLP((3, 3), WIDTH, WIDTH))
    loss = LogVariance() if objective == "log_variance" else TrajectoryBalance(AmortisedLogZ(WIDTH, WIDTH, initial=-4.0))
    learner = GFlowNetEM(q, loss, OnPolicy(32), OnlyE())
    optimizer, theta = adam(model, learner, 0.02), state(model)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    start = float(exact(model, q, X).kl_q_p.mean())
    for _ in fit(model, learner, [Batch(X)] * UPDATES, optimizer):
        rate.step()
    end = float(exact(model, q, X).kl_q_p.mean())
    print(f"frozen model, {objective}: mean KL(q || p(z|x)) from {start:.3f} to {end:.5f} nats")
    assert start > 0.1
    assert end <= 0.001
    assert_same(theta, state(model))


@pytest.mark.usefixtures("unchecked")
def test_the_e_step_reaches_the_generalised_posterior_of_an_energy():
    """exp(-E/T) p(z), normalised over all codes by a loop: q learns it without a sleep phase."""
    model, temperature = tiny_model().float(), 1.0
    model.likelihood = PerceptualEnergy(Edges(), temperature)
    torch.manual_seed(1)
    q = Autoregressive(ImageTrunk(IMAGE, (WIDTH, WIDTH)), PrefixMLP((3, 3), WIDTH, WIDTH))
    learner = GFlowNetEM(q, LogVariance(), OnPolicy(16), OnlyE())
    optimizer = adam(model, learner, 0.02)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)

    @torch.no_grad()
    def kl() -> float:
        codes = torch.cartesian_prod(torch.arange(3), torch.arange(3))
        made = model.decoder(model.codebook(codes)).double()
        energies = torch.tensor([[by_hand(image.double(), image_hat, 1.0, 1.0) for image_hat in made] for image in X], dtype=torch.float64)
        log_q = torch.stack([q(model, X).log_prob(z.expand(len(X), -1)) for z in codes], 1).double()
        return float(objectives.kl(log_q, (-energies / temperature).log_softmax(-1)).mean())

    start = kl()
    for _ in fit(model, learner, [Batch(X)] * UPDATES, optimizer):
        rate.step()
    end = kl()
    print(f"frozen model, energy at T = {temperature}: mean KL(q || p(z|x)) from {start:.3f} to {end:.5f} nats")
    assert start > 0.1
    assert end <= 0.001
