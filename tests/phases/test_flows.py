"""Balance of prefixes: the flow head reads them, and with the exact posterior and the exact flows nothing is left to learn."""

import pytest
import torch

from latentcomp.batch import Batch
from latentcomp.enumeration import all_codes
from latentcomp.learners.gflownet_em import GFlowNetEM
from latentcomp.phases.flows import DetailedBalance, PrefixFlow, SubTrajectoryBalance
from tests.learners.tuples import Given, TablePosterior, expected_gradient, gradient, kl, tuples
from tests.scenarios import brute_force_log_joint, posterior, tiny_images, tiny_model

X = tiny_images(2)
N, K = 3, 2
CODES = all_codes((K,) * N)


class ExactFlow(PrefixFlow):
    """log F of a prefix: the sum of p(x, z) over all codes that begin with it, by a loop; for an image at a time."""

    def __init__(self, log_joint: torch.Tensor) -> None:
        super().__init__(1, 1)
        self.log_joint = log_joint

    def forward(self, q, z: torch.Tensor) -> torch.Tensor:
        """The flows of the incomplete prefixes, recognised by their codes."""
        flows = torch.empty(z.shape, dtype=torch.float64)
        for s in range(len(z)):
            for i in range(N):
                begin = (CODES[:, :i] == z[s, 0, :i]).all(-1)
                flows[s, 0, i] = self.log_joint[begin].logsumexp(0)
        return flows


@pytest.mark.parametrize("lambda_", [None, 0.5, 1.0])
def test_the_exact_posterior_with_exact_flows_is_stationary_for_every_code(lambda_):
    model = tiny_model(N, K)
    for image in X.split(1):
        log_joint = brute_force_log_joint(model, image).detach()
        flow = ExactFlow(log_joint[0])
        learner = GFlowNetEM(TablePosterior(image, log_joint), DetailedBalance(flow) if lambda_ is None else SubTrajectoryBalance(flow, lambda_), Given(1))
        for codes, _ in tuples(learner.posterior(model, image), 1):
            learner.behaviour.codes = codes
            loss = next(learner.losses(model, Batch(image))).value
            assert loss.abs() < 1e-20
            assert gradient(loss, [learner.posterior.logits]).abs().max() < 1e-9


@pytest.mark.parametrize("kind", ["prefix_mlp", "transformer"])
def test_the_flow_of_a_prefix_depends_on_it_alone_and_that_of_the_empty_one_on_x(kind):
    torch.manual_seed(0)
    q = posterior(kind, N, K)(tiny_model(N, K), X)
    flow = PrefixFlow(8, 16, initial=-3.0).double()
    log_flow = flow(q, CODES.unsqueeze(1).expand(-1, 2, -1))
    assert log_flow.shape == (len(CODES), 2, N)
    for i in range(N):
        for a, one in enumerate(CODES):
            for b, other in enumerate(CODES):
                same = torch.equal(one[:i], other[:i])
                assert torch.allclose(log_flow[a, :, i], log_flow[b, :, i]) == same
    assert log_flow[0, 0, 0] != log_flow[0, 1, 0]


def test_with_the_whole_trajectory_alone_it_is_trajectory_balance():
    """On-policy then twice the gradient of the KL in the policy, whatever the flows."""
    model = tiny_model(N, K)
    torch.manual_seed(0)
    learner = GFlowNetEM(posterior("prefix_mlp", N, K), SubTrajectoryBalance(PrefixFlow(8, 4).double(), 1e15), Given(1))
    head = [learner.posterior.policy.head, learner.posterior.policy.head_bias]  # the layer that the flow does not share
    torch.testing.assert_close(expected_gradient(learner, model, X, head), 2 * gradient(kl(model, learner.posterior, X), head))


def test_both_learn_from_any_behaviour_and_may_be_compared_with_a_threshold():
    flow = PrefixFlow(8, 4)
    for objective in (DetailedBalance(flow), SubTrajectoryBalance(flow)):
        assert objective.off_policy
        assert objective.comparable
        assert not objective.weighs
        assert objective.least_samples == 1


def test_what_has_no_prefixes_is_refused():
    learner = GFlowNetEM(posterior("factorised"), DetailedBalance(PrefixFlow(8, 4)).double())
    with pytest.raises(AttributeError, match="FactorisedCodes keeps no features of prefixes: choose a sequential posterior"):
        next(learner.losses(tiny_model(), Batch(X)))
    with pytest.raises(TypeError, match="SubTrajectoryBalance needs the codes themselves"):
        SubTrajectoryBalance(PrefixFlow(8, 4))(posterior("factorised")(tiny_model(), X), *[torch.zeros(1, 2)] * 3)
    with pytest.raises(ValueError, match="lambda must be positive and finite, got 0"):
        SubTrajectoryBalance(PrefixFlow(8, 4), 0.0)
