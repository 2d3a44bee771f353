r"""Every equation once: tensors in, tensors out.

Symbols, shapes and units: ``log_q`` log q(z_s|x) and ``log_joint`` log p(x, z_s) are ``(S, B)``, in nats, S samples for each of B data; ``log_b`` is the
log-probability of the same samples under the behaviour policy b that drew them; ``log_z`` is an estimate of log p(x), ``(B,)`` or a scalar. Functions
named ``*_loss`` return a scalar, the mean over data; others return one number for each datum. Gradients flow where the docstring says so.

In on-policy expectation, with l_s = log q(z_s|x) - log p(x, z_s), both GFlowNet losses have the gradient of 2 KL(q || p(z|x)) in phi; what sets them
apart is that their optimum stays where it is for samples of any behaviour policy with full support.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import softplus


def _weights(log_w: Float[Tensor, "S B"]) -> Float[Tensor, "S B"]:
    """w_s = exp(log_w_s) / sum_t exp(log_w_t), normalised for each datum, without a gradient."""
    return log_w.detach().softmax(0)


def trajectory_balance_loss(log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_z: Float[Tensor, "B"] | Float[Tensor, ""]) -> Float[Tensor, ""]:
    """mean (log Z(x) + log q(z|x) - log p(x, z))^2, with a gradient in log q and log Z (Malkin et al., 2022; P_B = 1).

    Zero at q = p(z|x) and log Z(x) = log p(x), whatever drew z. One scalar log Z over different x is unbiased on-policy only.
    """
    return (log_z + log_q - log_joint.detach()).square().mean()


def log_variance_loss(log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """mean over x of Var_s[log p(x, z_s) - log q(z_s|x)], with the S - 1 of the unbiased variance and a gradient in log q.

    The same fixed points as trajectory balance with log Z(x) at its optimum, without learning log Z (Richter et al., 2020, "VarGrad"; Zhang et al.,
    2023). Samples are grouped by x: over a whole batch the variance of log p(x) between images would stay.
    """
    return (log_joint.detach() - log_q).var(0).mean()


def detailed_balance_loss(log_flow: Float[Tensor, "S B N"], log_q_steps: Float[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """mean over sites i of (log F(z_<i) + log q(z_i|z_<i, x) - log F(z_<=i))^2, with a gradient in flows and log q (Bengio et al., 2023; P_B = 1).

    ``log_flow`` is log F of the N incomplete prefixes, the empty one first; the flow of the complete one is p(x, z). Zero where F(z_<=i) is the sum of
    p(x, z) over all continuations and q = p(z|x); the flow of the empty prefix is then p(x).
    """
    return _nodes(log_flow, log_q_steps, log_joint).diff(dim=-1).square().mean()


def sub_trajectory_balance_loss(
    log_flow: Float[Tensor, "S B N"], log_q_steps: Float[Tensor, "S B N"], log_joint: Float[Tensor, "S B"], lambda_: float
) -> Float[Tensor, ""]:
    """mean of sum_{i<j} w_ij (log F(z_<=i) + sum_{i<k<=j} log q(z_k|z_<k, x) - log F(z_<=j))^2, 0 <= i < j <= N (Madan et al., 2023).

    w_ij ~ lambda^(j-i), normalised to sum to one over all N (N + 1) / 2 sub-trajectories ("SubTB(lambda)"): detailed balance as lambda -> 0, trajectory
    balance as lambda -> infinity, all alike at 1. Flows, gradient and zero are those of ``detailed_balance_loss``.
    """
    nodes = _nodes(log_flow, log_q_steps, log_joint)
    i, j = torch.triu_indices(nodes.shape[-1], nodes.shape[-1], 1, device=nodes.device)
    weights = ((j - i).to(nodes.dtype) * math.log(lambda_)).softmax(0)
    return ((nodes[..., i] - nodes[..., j]).square() * weights).sum(-1).mean()


def _nodes(log_flow: Float[Tensor, "S B N"], log_q_steps: Float[Tensor, "S B N"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, "S B N1"]:
    """log F(z_<=i) - sum_{k<=i} log q(z_k|z_<k, x), i = 0..N: the residual of a sub-trajectory is the difference of its ends, and balance is constancy."""
    flows = torch.cat([log_flow, log_joint.detach().unsqueeze(-1)], -1)
    return flows - torch.cat([torch.zeros_like(log_q_steps[..., :1]), log_q_steps.cumsum(-1)], -1)


def vimco_loss(log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """A surrogate whose gradient in log q and log p estimates that of -E_q[L], L = log (1/S) sum_s w_s, w_s = p(x, z_s) / q(z_s|x).

    -mean_B [ sum_s (L - L_-s) log q(z_s|x) + L ], where in L_-s the mean of the other samples' log w stands for log w_s (Mnih and Rezende, 2016): each sample
    is credited with what it adds to the bound. Only the first factor is held fixed. S >= 2 samples of q itself.
    """
    log_w = log_joint - log_q
    bound, fixed = iwae(log_w), log_w.detach()
    samples = len(fixed)
    others = (fixed.sum(0) - fixed) / (samples - 1)
    own = torch.eye(samples, dtype=torch.bool, device=fixed.device).unsqueeze(-1)
    without = torch.where(own, others, fixed).logsumexp(1) - math.log(samples)
    return -(((bound.detach() - without) * log_q).sum(0) + bound).mean()


def truncated_loss(log_p: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], repeated: Bool[Tensor, "S B"]) -> Float[Tensor, ""]:
    """-mean_B sum_s w_s log_p_s, w_s ~ p(x, z_s) over the distinct codes of a datum: E of the truncated posterior, normalised over a set of codes.

    With log q for ``log_p`` the cross-entropy that trains q; with log p(x, z) the M-step, whose gradient is that of -log sum_s p(x, z_s) over the set, a
    lower bound of log p(x) (Hewitt et al., 2020; Guiraud et al., 2020). ``repeated`` marks codes that are in the set already. The weights are held fixed.
    """
    return -(_weights(log_joint.masked_fill(repeated, -math.inf)) * log_p).sum(0).mean()


def leave_one_out_loss(log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """A surrogate whose gradient in log q estimates that of KL(q || p(z|x)): mean w_s (l_s - mean_{t != s} l_t) log q(z_s|x).

    Williams (1992) with the leave-one-out baseline of Kool et al. (2019). The weights w_s = q / b correct for a behaviour policy b; on-policy they are 1.
    """
    residual = (log_q - log_joint).detach()
    samples = len(residual)
    advantage = (residual - residual.mean(0)) * (samples / (samples - 1))
    return ((log_q.detach() - log_b).exp() * advantage * log_q).mean()


def wake_phi_loss(log_q: Float[Tensor, "S B"], log_joint: Float[Tensor, "S B"], log_b: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """-mean_B sum_s w_s log q(z_s|x), w_s ~ p(x, z_s) / b(z_s|x) normalised for each datum, with a gradient in log q.

    The cross-entropy from a self-normalised estimate of p(z|x) (Bornschein and Bengio, 2015): biased for finite S, consistent.
    """
    return -(_weights(log_joint - log_b) * log_q).sum(0).mean()


def sleep_loss(log_q: Float[Tensor, "*S B"]) -> Float[Tensor, ""]:
    """-mean log q(z|x) over dreams (x, z) ~ p: E_p(x)[KL(p(z|x) || q)] up to a constant (Hinton et al., 1995); over data, with z ~ p(z|x), the same."""
    return -log_q.mean()


def m_step_loss(log_joint: Float[Tensor, "*S B"]) -> Float[Tensor, ""]:
    """-mean log p(x, z) over codes that the posterior chose, with a gradient in theta (Dempster et al., 1977)."""
    return -log_joint.mean()


def weighted_m_step_loss(log_joint: Float[Tensor, "S B"], log_q: Float[Tensor, "S B"]) -> Float[Tensor, ""]:
    """-mean_B sum_s w_s log p(x, z_s), w_s ~ p(x, z_s) / q(z_s|x) normalised for each datum: the wake phase for theta of reweighted wake-sleep."""
    return -(_weights(log_joint - log_q) * log_joint).sum(0).mean()


def expected_log_joint(log_q: Float[Tensor, "B M"], log_joint: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """E_q[log p(x, z)] over all M codes; codes with q = 0 count nothing."""
    return torch.where(log_q == -math.inf, 0.0, log_q.exp() * log_joint).sum(-1)


def elbo(log_q: Float[Tensor, "B M"], log_joint: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """E_q[log p(x, z) - log q(z|x)] over all M codes: log p(x) - KL(q || p(z|x))."""
    return torch.where(log_q == -math.inf, 0.0, log_q.exp() * (log_joint - log_q)).sum(-1)


def kl(log_p: Float[Tensor, "B M"], log_q: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """KL(p || q) over all M codes; infinite where q misses a code of p, however rare that is in p."""
    terms = torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_q))
    missed = (log_q == -math.inf) & (log_p > -math.inf)  # not 0 times infinity, where p underflows
    return terms.masked_fill(missed, math.inf).sum(-1)


def total_variation(log_p: Float[Tensor, "B M"], log_q: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """Sum |p - q| / 2 over all M codes."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def iwae(log_w: Float[Tensor, "S B"]) -> Float[Tensor, "B"]:
    """log (1/S) sum_s w_s: exp of it averages to p(x), itself it is a lower bound in expectation (Burda et al., 2016, eq. 8)."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def straight_through(h: Float[Tensor, "*B"], e: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The value of e with the gradient of h (Bengio et al., 2013; van den Oord et al., 2017, section 3.2)."""
    return h + (e - h).detach()


def rotation_trick(h: Float[Tensor, "*B D"], e: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """The value of e with a gradient in h alone, that of e = |e|/|h| R h for a fixed rotation R and a fixed ratio (Fifty et al., 2024, section 4.2).

    R = I - 2 r r^T + 2 e_ h_^T turns h_ = h/|h| into e_ = e/|e|, r along their sum; so the angle between gradient and e becomes that between gradient and
    h, and h's of one cell move apart or together, where ``straight_through`` moves them alike. Zero vectors get no gradient.
    """
    h_, e_, scale = _unit(h.detach()), _unit(e.detach()), _norm(e.detach()) / _norm(h.detach())
    r = _unit(h_ + e_)
    rotated = h - 2 * (h * r).sum(-1, keepdim=True) * r + 2 * (h * h_).sum(-1, keepdim=True) * e_
    return straight_through(scale * rotated, e)


def _norm(h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B 1"]:
    return torch.linalg.vector_norm(h, dim=-1, keepdim=True).clamp_min(torch.finfo(h.dtype).tiny ** 0.5)


def _unit(h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    return h / _norm(h)


def entropy_loss(entropies: Float[Tensor, " M"], mean: Float[Tensor, " K"], diversity: float = 1.0) -> Float[Tensor, ""]:
    """mean_m H[q_m] - diversity H[mean_m q_m]: M distributions over K codes, each to be certain, all together to use every code (Yu et al., 2024, eq. 5).

    ``entropies`` are the H[q_m], ``mean`` the average distribution; nats, at least -diversity log K. At diversity 1 minus the mutual information of m and k.
    """
    floor = torch.finfo(mean.dtype).tiny  # a code that no vector takes has probability zero, where p log p has a value but no gradient
    return entropies.mean() + diversity * torch.special.xlogy(mean, mean.clamp_min(floor)).sum()


def codebook_loss(e: Float[Tensor, "B N D"], h: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """mean over x of sum_i ||sg[h_i] - e_i||^2: pulls the chosen vectors to the encoder's outputs (van den Oord et al., 2017, eq. 3)."""
    return (h.detach() - e).square().sum((-2, -1)).mean()


def commitment_loss(e: Float[Tensor, "B N D"], h: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """mean over x of sum_i ||h_i - sg[e_i]||^2: keeps the encoder's outputs near the vectors they chose (eq. 3)."""
    return codebook_loss(h, e)


def perceptual_loss(x: Float[Tensor, "B C H W"], x_hat: Float[Tensor, "B C H W"], distance: Float[Tensor, " B"] | None = None) -> Float[Tensor, ""]:
    """mean |x - x_hat| over pixels plus the mean perceptual distance d(x, x_hat): what VQGAN's code puts for eq. 4's squared error (Esser et al., 2021).

    ``distance`` is LPIPS (``nn.lpips``), already weighted; None leaves the L1 term alone. A loss per pixel, not in nats.
    """
    l1 = absolute_error(x, x_hat).mean()
    return l1 if distance is None else l1 + distance.mean()


def absolute_error(x: Float[Tensor, "*B C H W"], x_hat: Float[Tensor, "*SB C H W"]) -> Float[Tensor, "*SB"]:
    """mean |x - x_hat| over the pixels of each image: the L1 part of the energy; x is broadcast over leading sample axes."""
    return (x - x_hat).abs().mean((-3, -2, -1))


def adversarial_loss(made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """-mean of the critic's logits of what was made: the generator's side, with a gradient in what it made (Lim and Ye, 2017)."""
    return -made.mean()


def hinge_loss(real: Float[Tensor, "B 1 h w"], made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """(mean max(0, 1 - D(x)) + mean max(0, 1 + D(x_hat))) / 2: the critic's side of the hinge game (Lim and Ye, 2017), the published default of VQGAN."""
    return ((1 - real).relu().mean() + (1 + made).relu().mean()) / 2


def logistic_loss(real: Float[Tensor, "B 1 h w"], made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """(mean softplus(-D(x)) + mean softplus(D(x_hat))) / 2: -log sigmoid D(x) - log(1 - sigmoid D(x_hat)), halved (Goodfellow et al., 2014)."""
    return (softplus(-real).mean() + softplus(made).mean()) / 2


def non_saturating_loss(made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """-mean log sigmoid D(x_hat): the generator's side of the logistic game with a gradient that does not die when the critic is sure (Goodfellow, 2014)."""
    return softplus(-made).mean()


def min_max_value(real: Float[Tensor, "B 1 h w"], made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """mean log sigmoid D(x) + mean log(1 - sigmoid D(x_hat)): L_GAN, which the critic climbs and the generator descends (Esser et al., 2021, eq. 5)."""
    return -softplus(-real).mean() + saturating_loss(made)


def saturating_loss(made: Float[Tensor, "B 1 h w"]) -> Float[Tensor, ""]:
    """mean log(1 - sigmoid D(x_hat)): the part of ``min_max_value`` that the generator moves, which it descends."""
    return -softplus(made).mean()


def lecam_loss(real: Float[Tensor, "B 1 h w"], made: Float[Tensor, "B 1 h w"], mean_real: Float[Tensor, ""], mean_made: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """mean (D(x) - a_made)^2 + mean (D(x_hat) - a_real)^2, a the running means of the logits (Tseng et al., 2021, "LeCAM", eq. 5).

    Each kind's logits are held near what the other kind's have been: a critic that pulls them apart pays for it. A gradient in the logits.
    """
    return (real - mean_made).square().mean() + (made - mean_real).square().mean()


def adaptive_weight(reconstruction: Float[Tensor, "..."], adversarial: Float[Tensor, "..."], delta: float = 1e-4, ceiling: float = 1e4) -> Float[Tensor, ""]:
    """lambda = |grad_L reconstruction| / (|grad_L adversarial| + delta), of the two gradients at the decoder's last weights L (Esser et al., 2021, eq. 7).

    Euclidean norms. The defaults are those of the published code, lambda at most 1e4 too; the paper has delta = 1e-6 and no ceiling (``math.inf``).
    """
    return (reconstruction.norm() / (adversarial.norm() + delta)).clamp(0, ceiling)
