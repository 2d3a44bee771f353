"""With the model frozen, the GFlowNet E-step reaches the exact posterior."""

import pytest
import torch

from latentcomp.batch import Batch
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
