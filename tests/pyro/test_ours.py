"""Our models as Pyro programs: Pyro's enumeration finds our exact likelihood, and our enumeration of the program our exact posterior."""

import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate

from latentcomp.posteriors.exact import Exact
from latentcomp.pyro import GFlowNetELBO, GFlowNetGuide, as_pyro, exact_posterior
from tests.scenarios import brute_force_log_joint, tiny_images, tiny_model

X = tiny_images(3)


@pytest.fixture(autouse=True)
def _fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


@pytest.mark.parametrize("learned_prior", [False, True])
def test_log_px_by_pyro_is_ours(learned_prior):
    model = tiny_model(2, 3, learned_prior)
    enumerated = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(as_pyro(model)), lambda x: None, X)
    assert -enumerated == pytest.approx(float(brute_force_log_joint(model, X).logsumexp(1).sum().detach()), rel=1e-6)


@pytest.mark.parametrize("learned_prior", [False, True])
def test_the_posterior_of_the_program_is_that_of_the_model(learned_prior):
    model = tiny_model(2, 3, learned_prior)
    torch.testing.assert_close(exact_posterior(as_pyro(model), X).log_p, Exact()(model, X).table().detach(), atol=1e-6, rtol=1e-6)


def test_pyro_s_own_gradient_of_log_px_is_that_of_the_model():
    model = tiny_model(2, 3)
    TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(config_enumerate(as_pyro(model)), lambda x: None, X).backward()
    expected = torch.autograd.grad(-brute_force_log_joint(model, X).logsumexp(1).sum(), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-5)


def test_it_dreams_images_and_a_guide_trains_on_it():
    model = tiny_model(2, 3).float()
    program = as_pyro(model)
    guide, x = GFlowNetGuide(program), X.float()
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 1e-3}), GFlowNetELBO())
    before = [p.detach().clone() for p in model.parameters()]
    svi.step(x)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert any(key.startswith("model$$$") for key in pyro.get_param_store())
    drawn = pyro.poutine.trace(pyro.poutine.uncondition(program)).get_trace(x).nodes["x"]["value"]
    assert drawn.shape == x.shape
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}


def test_without_pyro_the_error_says_how_to_install_it():
    code = "import sys; sys.modules['pyro'] = None; import latentcomp.pyro"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pip install pyro-ppl" in done.stderr
