r"""Every equation once: tensors in, tensors out.

Symbols, shapes and units: ``log_q`` log q(z_s|x) and ``log_joint`` log p(x, z_s) are ``(S, B)``, in nats, S samples for each of B data; ``log_b`` is the
log-probability of the same samples under the behaviour policy b that drew them; ``log_z`` is an estimate of log p(x), ``(B,)`` or a scalar. Functions
named ``*_loss`` return a scalar, the mean over data; others return one number for each datum. Gradients flow where the docstring says so.

In on-policy expectation, with l_s = log q(z_s|x) - log p(x, z_s), both GFlowNet losses have the gradient of 2 KL(q || p(z|x)) in phi; what sets them
apart is that their optimum stays where it is for samples of any behaviour policy with full support.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


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


def sleep_loss(log_q: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """-mean log q(z|x) over dreams (x, z) ~ p: E_p(x)[KL(p(z|x) || q)] up to a constant (Hinton et al., 1995)."""
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
    """KL(p || q) over all M codes; infinite where q misses a code of p."""
    return torch.where(log_p == -math.inf, 0.0, log_p.exp() * (log_p - log_q)).sum(-1)


def total_variation(log_p: Float[Tensor, "B M"], log_q: Float[Tensor, "B M"]) -> Float[Tensor, "B"]:
    """Sum |p - q| / 2 over all M codes."""
    return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2


def iwae(log_w: Float[Tensor, "S B"]) -> Float[Tensor, "B"]:
    """log (1/S) sum_s w_s: exp of it averages to p(x), itself it is a lower bound in expectation (Burda et al., 2016, eq. 8)."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def straight_through(h: Float[Tensor, "*B"], e: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The value of e with the gradient of h (Bengio et al., 2013; van den Oord et al., 2017, section 3.2)."""
    return h + (e - h).detach()


def codebook_loss(e: Float[Tensor, "B N D"], h: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """mean over x of sum_i ||sg[h_i] - e_i||^2: pulls the chosen vectors to the encoder's outputs (van den Oord et al., 2017, eq. 3)."""
    return (h.detach() - e).square().sum((-2, -1)).mean()


def commitment_loss(e: Float[Tensor, "B N D"], h: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """mean over x of sum_i ||h_i - sg[e_i]||^2: keeps the encoder's outputs near the vectors they chose (eq. 3)."""
    return codebook_loss(h, e)
