"""Every equation against loops over data and samples, in float64."""

import math

import pytest
import torch

from latentcomp import objectives

S, B, M = 4, 3, 5
LOG_Q, LOG_JOINT, LOG_B = (torch.randn(S, B, generator=torch.Generator().manual_seed(i), dtype=torch.float64) - 3 for i in range(3))
LOG_P, LOG_R = (torch.randn(B, M, generator=torch.Generator().manual_seed(i), dtype=torch.float64).log_softmax(-1) for i in range(2))
Q, J, A = LOG_Q.tolist(), LOG_JOINT.tolist(), LOG_B.tolist()


def mean(values) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def weights(log_w: list[float]) -> list[float]:
    return [math.exp(w) / math.fsum(math.exp(v) for v in log_w) for w in log_w]


def check(value: torch.Tensor, wanted: float) -> None:
    assert float(value.detach()) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("log_z", [torch.tensor(-2.0).double(), torch.tensor([-2.0, 0.5, 1.0]).double()], ids=["scalar", "of_x"])
def test_trajectory_balance(log_z):
    z = log_z.expand(B).tolist()
    check(objectives.trajectory_balance_loss(LOG_Q, LOG_JOINT, log_z), mean((z[b] + Q[s][b] - J[s][b]) ** 2 for s in range(S) for b in range(B)))


def test_log_variance():
    def variance(values: list[float]) -> float:
        return math.fsum((v - mean(values)) ** 2 for v in values) / (len(values) - 1)

    check(objectives.log_variance_loss(LOG_Q, LOG_JOINT), mean(variance([J[s][b] - Q[s][b] for s in range(S)]) for b in range(B)))


def test_log_variance_ignores_what_is_constant_for_an_image():
    shift = torch.tensor([5.0, -7.0, 100.0]).double()
    torch.testing.assert_close(objectives.log_variance_loss(LOG_Q, LOG_JOINT + shift), objectives.log_variance_loss(LOG_Q, LOG_JOINT))


N = 4
FLOW, STEPS = (torch.randn(S, B, N, generator=torch.Generator().manual_seed(i), dtype=torch.float64) - 1 for i in (5, 6))


def sub_trajectories(s: int, b: int) -> dict[tuple[int, int], float]:
    """The squared residual of every part (i, j) of one trajectory."""
    flow = [*FLOW[s, b].tolist(), J[s][b]]
    return {(i, j): (flow[i] + math.fsum(STEPS[s, b, i:j].tolist()) - flow[j]) ** 2 for i in range(N) for j in range(i + 1, N + 1)}


def test_detailed_balance():
    wanted = mean(sub_trajectories(s, b)[i, i + 1] for s in range(S) for b in range(B) for i in range(N))
    check(objectives.detailed_balance_loss(FLOW, STEPS, LOG_JOINT), wanted)


@pytest.mark.parametrize("lambda_", [0.3, 1.0, 2.5])
def test_sub_trajectory_balance(lambda_):
    def weighted(s: int, b: int) -> float:
        squares = sub_trajectories(s, b)
        return math.fsum(lambda_ ** (j - i) * square for (i, j), square in squares.items()) / math.fsum(lambda_ ** (j - i) for i, j in squares)

    check(objectives.sub_trajectory_balance_loss(FLOW, STEPS, LOG_JOINT, lambda_), mean(weighted(s, b) for s in range(S) for b in range(B)))


def test_sub_trajectory_balance_at_its_ends_is_trajectory_and_detailed_balance():
    log_z = FLOW[0, :, 0]
    flow = torch.cat([log_z.expand(S, B).unsqueeze(-1), FLOW[..., 1:]], -1)
    whole = objectives.sub_trajectory_balance_loss(flow, STEPS, LOG_JOINT, 1e15)
    torch.testing.assert_close(whole, objectives.trajectory_balance_loss(STEPS.sum(-1), LOG_JOINT, log_z))
    steps = objectives.sub_trajectory_balance_loss(flow, STEPS, LOG_JOINT, 1e-15)
    torch.testing.assert_close(steps, objectives.detailed_balance_loss(flow, STEPS, LOG_JOINT))


def test_vimco_credits_each_sample_with_what_it_adds():
    log_q, log_joint = LOG_Q.clone().requires_grad_(), LOG_JOINT.clone().requires_grad_()
    objectives.vimco_loss(log_q, log_joint).backward()
    for b in range(B):
        log_w = [J[s][b] - Q[s][b] for s in range(S)]
        bound = math.log(mean(math.exp(w) for w in log_w))
        for s in range(S):
            others = [log_w[t] for t in range(S) if t != s]
            without = math.log(mean(math.exp(w) for w in [*others, mean(others)]))
            check(log_joint.grad[s, b], -weights(log_w)[s] / B)
            check(log_q.grad[s, b], -(bound - without - weights(log_w)[s]) / B)


def test_truncated_counts_each_distinct_code_once():
    repeated = torch.zeros(S, B, dtype=torch.bool)
    repeated[2, 0] = repeated[1, 1] = repeated[3, 1] = True
    log_p, log_joint = LOG_Q.clone().requires_grad_(), LOG_JOINT.clone().requires_grad_()
    value = objectives.truncated_loss(log_p, log_joint, repeated)
    terms = []
    for b in range(B):
        kept = [s for s in range(S) if not repeated[s, b]]
        terms.append(math.fsum(w * Q[s][b] for w, s in zip(weights([J[s][b] for s in kept]), kept, strict=True)))
    check(value, -mean(terms))
    value.backward()
    assert log_joint.grad is None, "the weights are held fixed"
    assert (log_p.grad[repeated] == 0).all()


def test_leave_one_out():
    residual = [[Q[s][b] - J[s][b] for b in range(B)] for s in range(S)]

    def term(s: int, b: int) -> float:
        return math.exp(Q[s][b] - A[s][b]) * (residual[s][b] - mean(residual[t][b] for t in range(S) if t != s)) * Q[s][b]

    check(objectives.leave_one_out_loss(LOG_Q, LOG_JOINT, LOG_B), mean(term(s, b) for s in range(S) for b in range(B)))


def test_leave_one_out_s_gradient_is_the_weighted_advantage():
    log_q = LOG_Q.clone().requires_grad_()
    objectives.leave_one_out_loss(log_q, LOG_JOINT, LOG_B).backward()
    residual = LOG_Q - LOG_JOINT
    for s in range(S):
        others = residual[[t for t in range(S) if t != s]].mean(0)
        torch.testing.assert_close(log_q.grad[s], (LOG_Q[s] - LOG_B[s]).exp() * (residual[s] - others) / (S * B))


def test_wake_phi():
    w = [weights([J[s][b] - A[s][b] for s in range(S)]) for b in range(B)]
    check(objectives.wake_phi_loss(LOG_Q, LOG_JOINT, LOG_B), -mean(math.fsum(w[b][s] * Q[s][b] for s in range(S)) for b in range(B)))


def test_sleep():
    check(objectives.sleep_loss(LOG_Q[0]), -mean(Q[0]))


def test_m_step():
    check(objectives.m_step_loss(LOG_JOINT), -mean(value for row in J for value in row))


def test_weighted_m_step():
    w = [weights([J[s][b] - Q[s][b] for s in range(S)]) for b in range(B)]
    check(objectives.weighted_m_step_loss(LOG_JOINT, LOG_Q), -mean(math.fsum(w[b][s] * J[s][b] for s in range(S)) for b in range(B)))


def test_iwae():
    given = objectives.iwae(LOG_JOINT)
    for b in range(B):
        check(given[b], math.log(mean(math.exp(J[s][b]) for s in range(S))))


def test_sums_over_all_codes():
    for b in range(B):
        p, r = LOG_P[b].tolist(), LOG_R[b].tolist()
        joint = [value - 3 for value in r]
        check(objectives.kl(LOG_P, LOG_R)[b], math.fsum(math.exp(p[m]) * (p[m] - r[m]) for m in range(M)))
        check(objectives.elbo(LOG_P, LOG_R - 3)[b], math.fsum(math.exp(p[m]) * (joint[m] - p[m]) for m in range(M)))
        check(objectives.expected_log_joint(LOG_P, LOG_R - 3)[b], math.fsum(math.exp(p[m]) * joint[m] for m in range(M)))
        check(objectives.total_variation(LOG_P, LOG_R)[b], math.fsum(abs(math.exp(p[m]) - math.exp(r[m])) for m in range(M)) / 2)


def test_a_point_mass_pays_for_its_one_code():
    point = torch.full((B, M), -math.inf).double()
    point[:, 2] = 0.0
    torch.testing.assert_close(objectives.kl(point, LOG_P), -LOG_P[:, 2])
    torch.testing.assert_close(objectives.elbo(point, LOG_P - 3), LOG_P[:, 2] - 3)
    torch.testing.assert_close(objectives.expected_log_joint(point, LOG_P), LOG_P[:, 2])
    torch.testing.assert_close(objectives.total_variation(point, LOG_P), 1 - LOG_P[:, 2].exp())
    assert objectives.kl(LOG_P, point).isinf().all()
    rare = torch.tensor([[0.0, -800.0]], dtype=torch.float64)  # exp of it is 0 in float64, and yet the code is one of p's
    assert objectives.kl(rare, torch.tensor([[0.0, -math.inf]], dtype=torch.float64)).item() == math.inf


@pytest.mark.parametrize("sums", [objectives.kl, objectives.elbo, objectives.expected_log_joint, objectives.total_variation])
def test_what_is_not_a_number_is_never_taken_for_zero(sums):
    broken = LOG_P.clone()
    broken[1] = math.nan
    assert sums(broken, LOG_R).isnan().tolist() == sums(LOG_R, broken).isnan().tolist() == [False, True, False]


def test_vector_quantisation_terms():
    h, e = (torch.randn(B, 2, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64).requires_grad_() for i in range(2))
    wanted = mean(math.fsum((h.detach() - e.detach())[b].flatten().square().tolist()) for b in range(B))
    for loss, learns, rests in ((objectives.codebook_loss(e, h), e, h), (objectives.commitment_loss(e, h), h, e)):
        check(loss, wanted)
        gradient, nothing = torch.autograd.grad(loss, (learns, rests), allow_unused=True)
        torch.testing.assert_close(gradient, 2 * (learns - rests).detach() / B)
        assert nothing is None


def test_straight_through_has_the_value_of_e_and_the_gradient_of_h():
    h, e = (torch.randn(B, 2, generator=torch.Generator().manual_seed(i), dtype=torch.float64).requires_grad_() for i in range(2))
    value = objectives.straight_through(h, e)
    torch.testing.assert_close(value, e)
    at_h, at_e = torch.autograd.grad((value * torch.arange(6).view(B, 2)).sum(), (h, e), allow_unused=True)
    assert at_h.flatten().tolist() == list(range(6))
    assert at_e is None


def rotated(h, e):
    """R h for the rotation of the plane of h and e that turns h towards e, from angles."""
    u, v = h / h.norm(), e / e.norm()
    w = v - (v @ u) * u
    w = w / w.norm()
    angle = torch.atan2(v @ w, v @ u)
    plane = torch.stack([u, w], -1)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return torch.eye(len(h)).double() + plane @ (turn - torch.eye(2).double()) @ plane.T


def test_the_rotation_trick_turns_the_gradient_with_the_vector():
    h, e = (torch.randn(7, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64).requires_grad_() for i in range(2))
    value, upstream = objectives.rotation_trick(h, e), torch.arange(28.0).view(7, 4).double()
    torch.testing.assert_close(value, e)
    at_h, at_e = torch.autograd.grad(value, (h, e), upstream, allow_unused=True)
    assert at_e is None
    for row, (a, b) in enumerate(zip(h.detach(), e.detach(), strict=True)):
        matrix = b.norm() / a.norm() * rotated(a, b)
        torch.testing.assert_close(matrix @ a, b)
        torch.testing.assert_close(at_h[row], matrix.T @ upstream[row])


def test_the_rotation_trick_is_that_of_the_independent_implementation():
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

    h, e = (torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(i)).requires_grad_() for i in range(2))
    ours, theirs, upstream = objectives.rotation_trick(h, e), rotate_to(h, e), torch.randn(2, 9, 5)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, h, upstream)[0], torch.autograd.grad(theirs, h, upstream)[0])


def test_the_rotation_trick_at_opposite_equal_and_zero_vectors():
    h = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]).double().requires_grad_()
    e = torch.tensor([[-2.0, -4.0], [1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]).double()
    value = objectives.rotation_trick(h, e)
    torch.testing.assert_close(value, e)
    (at_h,) = torch.autograd.grad(value, h, torch.ones_like(h))
    assert at_h.isfinite().all()
    torch.testing.assert_close(at_h[1], torch.ones(2).double())  # no turn: the straight-through gradient
    u = h[0].detach() / h[0].detach().norm()
    torch.testing.assert_close(at_h[0], 2 * (torch.ones(2).double() - 2 * u * u.sum()))  # half a turn reflects


def test_the_entropy_term_is_minus_the_mutual_information():
    q = torch.distributions.Categorical(logits=torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()).probs
    joint = q / 6
    information = (joint * (joint / (joint.sum(0) * joint.sum(1, keepdim=True))).log()).sum()
    entropies = -(q * q.log()).sum(-1)
    torch.testing.assert_close(objectives.entropy_loss(entropies, q.mean(0)), -information)
    pooled = -(q.mean(0) * q.mean(0).log()).sum()
    torch.testing.assert_close(objectives.entropy_loss(entropies, q.mean(0), 1.7), entropies.mean() - 1.7 * pooled)
    sure = torch.eye(4).double()
    torch.testing.assert_close(objectives.entropy_loss(torch.zeros(4).double(), sure.mean(0)), torch.tensor(-math.log(4)).double())
    assert objectives.entropy_loss(torch.zeros(1).double(), sure[0]) == 0


def test_the_entropy_of_codes_that_nothing_takes_has_a_gradient():
    """Where a code's probability is zero, the derivative of the others' is still that of p log p, log p + 1, and its own is finite."""
    mean = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objectives.entropy_loss(torch.zeros(1).double(), mean), mean)
    torch.testing.assert_close(gradient[:2], mean.detach()[:2].log() + 1)
    assert gradient.isfinite().all()


def test_targets_and_weights_pass_no_gradient():
    log_q, log_joint, log_b = (t.clone().requires_grad_() for t in (LOG_Q, LOG_JOINT, LOG_B))
    log_z = torch.zeros(B, dtype=torch.float64, requires_grad=True)
    for loss in (
        objectives.trajectory_balance_loss(log_q, log_joint, log_z),
        objectives.log_variance_loss(log_q, log_joint),
        objectives.leave_one_out_loss(log_q, log_joint, log_b.detach()),
        objectives.wake_phi_loss(log_q, log_joint, log_b),
    ):
        to_q, *others = torch.autograd.grad(loss, (log_q, log_joint, log_b), allow_unused=True)
        assert to_q.abs().sum() > 0
        assert others == [None, None]
    to_joint, to_q = torch.autograd.grad(objectives.weighted_m_step_loss(log_joint, log_q), (log_joint, log_q), allow_unused=True)
    torch.testing.assert_close(to_joint.detach(), -(LOG_JOINT - LOG_Q).softmax(0) / B)
    assert to_q is None


REAL, MADE = (2 * torch.randn(B, 1, 2, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2))


def test_the_critics_games():
    real, made = REAL.flatten().tolist(), MADE.flatten().tolist()
    check(objectives.adversarial_loss(MADE), -mean(made))
    check(objectives.hinge_loss(REAL, MADE), (mean(max(0, 1 - r) for r in real) + mean(max(0, 1 + m) for m in made)) / 2)

    def sigmoid(v: float) -> float:
        return 1 / (1 + math.exp(-v))

    value = mean(math.log(sigmoid(r)) for r in real) + mean(math.log(1 - sigmoid(m)) for m in made)
    check(objectives.min_max_value(REAL, MADE), value)
    check(objectives.logistic_loss(REAL, MADE), -value / 2)
    check(objectives.saturating_loss(MADE), mean(math.log(1 - sigmoid(m)) for m in made))
    check(objectives.non_saturating_loss(MADE), -mean(math.log(sigmoid(m)) for m in made))


def test_lecam_holds_each_kind_s_logits_near_the_other_s_mean():
    real, made = REAL.flatten().tolist(), MADE.flatten().tolist()
    a_real, a_made = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.3, dtype=torch.float64)
    check(objectives.lecam_loss(REAL, MADE, a_real, a_made), mean((r + 0.3) ** 2 for r in real) + mean((m - 0.7) ** 2 for m in made))


def test_a_perceptual_loss_is_the_mean_error_and_the_mean_distance():
    l1 = mean(abs(r - m) for r, m in zip(REAL.flatten().tolist(), MADE.flatten().tolist(), strict=True))
    check(objectives.perceptual_loss(REAL, MADE), l1)
    distance = torch.arange(float(B), dtype=torch.float64)
    check(objectives.perceptual_loss(REAL, MADE, distance), l1 + mean(range(B)))


@pytest.mark.parametrize(("scale", "wanted"), [(3.0, 3 * 5 / (5 + 1e-4)), (1e7, 1e4)])
def test_the_adaptive_weight_balances_gradients_at_the_last_layer(scale, wanted):
    adversarial = torch.tensor([3.0, 4.0], dtype=torch.float64)  # a gradient of norm 5
    check(objectives.adaptive_weight(scale * adversarial, adversarial), wanted)
    check(objectives.adaptive_weight(scale * adversarial, adversarial, 1e-6, math.inf), scale * 5 / (5 + 1e-6))  # the paper's constants


def test_the_absolute_error_is_one_number_for_each_image_and_sample():
    made = torch.stack([MADE, 2 * MADE])
    rows = [mean(abs(r - m) for r, m in zip(REAL[b].flatten().tolist(), made[s, b].flatten().tolist(), strict=True)) for s in range(2) for b in range(B)]
    torch.testing.assert_close(objectives.absolute_error(REAL, made).flatten(), torch.tensor(rows, dtype=torch.float64))
