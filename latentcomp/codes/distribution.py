"""What every distribution over code sequences can do.

z is a sequence of N codes; site i takes one of K_i values. Codes are generated in a fixed order, z_1 first, so that

    log q(z) = sum_i log q(z_i | z_1, ..., z_{i-1}),                                        (chain rule)

and every partial sequence has one parent: in the words of GFlowNets the backward policy is P_B = 1.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentcomp.noise import Noise


class CodeDistribution(Distribution, ABC):
    """A distribution over code sequences: batch shape ``(B,)``, or ``()`` where nothing is conditioned on; event shape ``(N,)``.

    A family provides ``_draw``, ``log_prob_steps``, ``mode``, ``explore`` and ``table``.

    Args:
        batch_shape: ``(B,)`` or ``()``.
        cardinalities: K_i for each of the N sites.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, batch_shape: torch.Size, cardinalities: Sequence[int]) -> None:
        self.cardinalities = tuple(cardinalities)
        super().__init__(batch_shape, torch.Size([len(self.cardinalities)]), validate_args=False)

    @property
    def context(self) -> Float[Tensor, "B H"]:
        """``(B, H)`` features of x for a head such as log Z(x), where the family has them."""
        raise AttributeError(f"{type(self).__name__} keeps no features of x: choose a posterior with an encoder, such as Autoregressive or Factorised")

    def sample(self, sample_shape: Sequence[int] = (), noise: Noise | None = None) -> Int[Tensor, "... N"]:
        """Codes of shape ``(*sample_shape, B, N)``, without a gradient.

        The last axis before the sites is the one whose rows own a stream of ``noise``: the batch, or where the batch shape is ``()``, the last
        sample axis. Without ``noise`` the draws follow ``torch.manual_seed``.
        """
        rows, leading, n = self._rows(sample_shape)
        with torch.no_grad():
            return self._draw(leading, n, noise or Noise.fresh(n, self._device)).view(*rows, *self.event_shape)

    def sample_and_log_prob(self, sample_shape: Sequence[int] = (), noise: Noise | None = None) -> tuple[Int[Tensor, "... N"], Float[Tensor, "..."]]:
        """The codes that :meth:`sample` would give, and their log q ``(*sample_shape, B)`` in nats; without a gradient, and where it can, in one pass."""
        with torch.no_grad():
            z = self.sample(sample_shape, noise)
            return z, self.log_prob(z)

    def sample_often_and_log_prob(self, samples: int, noise: Noise) -> tuple[Int[Tensor, "M *B N"], Float[Tensor, "M *B"]]:
        """What :meth:`sample_and_log_prob` gives for a sample shape ``(M,)``, for estimates that want thousands of samples of each datum.

        A family may compute what many samples have in common once. Doing so asks the device for numbers, so it is not for training.
        """
        return self.sample_and_log_prob((samples,), noise)

    def features(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N1 H"]:
        """Features of the N + 1 prefixes of z, the empty and the complete one included, for a flow head; where the family has them."""
        raise AttributeError(f"{type(self).__name__} keeps no features of prefixes: choose a sequential posterior, such as Autoregressive")

    def conditionals(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N K"]:
        """log q(. | z_<i): the log-probabilities of all codes of each site after those of z before it; -inf for codes that a site does not have."""
        raise TypeError(f"{type(self).__name__} has no conditionals of single sites: choose a posterior such as Autoregressive or Factorised")

    def select(self, rows: Int[Tensor, " R"]) -> "CodeDistribution":
        """The distributions of some of the B data, in this order, any of them as often as it is named: batch shape ``(R,)``."""
        raise TypeError(f"{type(self).__name__} cannot be split into its data: choose a posterior such as Autoregressive or Factorised")

    def redraw(self, z: Int[Tensor, "*rows N"], cut: Int[Tensor, "*rows"], noise: Noise) -> tuple[Int[Tensor, "*rows N"], Float[Tensor, "*rows"]]:
        """Codes that agree with z before the site ``cut`` and are drawn from q(z_i | z_<i) from there on, and their log q; without a gradient."""
        raise TypeError(f"{type(self).__name__} cannot draw the rest of a sequence: choose a posterior such as Autoregressive or Factorised")

    def continued(self, given: Int[Tensor, "R a"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """Codes that begin with the first a of each row as given, the rest drawn; those that :meth:`sample` would give, where it drew the same beginning."""
        raise TypeError(f"{type(self).__name__} cannot go on from a beginning: choose an autoregressive prior")

    def completed(self, z: Int[Tensor, "R N"], hidden: Bool[Tensor, "R N"], noise: Noise | None = None) -> Int[Tensor, "R N"]:
        """z with its hidden codes drawn anew, row r under condition r modulo B; what is shown stays."""
        raise TypeError(f"{type(self).__name__} cannot complete a part of a sequence: choose an autoregressive or a masked prior")

    def unconditioned(self, rows: Bool[Tensor, " B"]) -> "CodeDistribution":
        """The distributions, those of the marked data without their condition: what classifier-free guidance learns from."""
        raise TypeError(f"{type(self).__name__} cannot leave out a condition: choose an autoregressive prior with a condition")

    def _rows(self, sample_shape: Sequence[int]) -> tuple[tuple[int, ...], torch.Size, int]:
        """All axes before the sites, those before the last of them, and the length of the last."""
        rows = (*sample_shape, *self.batch_shape)
        return rows, torch.Size(rows[:-1]), rows[-1] if rows else 1

    @property
    @abstractmethod
    def _device(self) -> torch.device: ...

    @abstractmethod
    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        """Codes ``(*leading, rows, N)``; ``rows`` is B, or for an unconditional distribution any number."""

    @abstractmethod
    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """log q(z_i | z_<i) at each site, in nats; the leading axes of z are ``(*S, B)``."""

    def log_prob(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows"]:
        """log q(z), in nats."""
        return self.log_prob_steps(z).sum(-1)

    @property
    @abstractmethod
    def mode(self) -> Int[Tensor, "*B N"]:
        """The most probable codes (for a sequential family, the greedy ones: each site's best given those before it)."""

    @abstractmethod
    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "CodeDistribution":
        """The behaviour policy: each conditional flattened by ``temperature``, then mixed with ``epsilon`` of the uniform distribution."""

    @abstractmethod
    def table(self) -> Float[Tensor, "*B M"]:
        """log q of all M = prod_i K_i sequences, in the order of :func:`latentcomp.enumeration.all_codes` (the first site varies slowest)."""


def check_given(given: Int[Tensor, "R a"], cardinalities: Sequence[int], conditions: int) -> None:
    """Refuses beginnings that cannot be gone on from.

    Args:
        given: codes of the first a sites.
        cardinalities: K_i of all sites.
        conditions: how many conditions the rows belong to, row r to condition r modulo them; 1 where nothing is conditioned on.

    Raises:
        ValueError: rows that the conditions do not divide, or codes that a site does not have.
    """
    if len(given) % conditions:
        raise ValueError(f"{len(given)} beginnings for {conditions} conditions: give each condition the same number of beginnings")
    limit = torch.tensor(cardinalities[: given.shape[1]], device=given.device)
    if given.numel() and bool(((given < 0) | (given >= limit)).any()):
        raise ValueError(f"given codes must lie in 0..{max(cardinalities) - 1}; got values from {int(given.min())} to {int(given.max())}")


def check_shown(z: Int[Tensor, "R n"], hidden: Bool[Tensor, "R n"], cardinalities: Sequence[int], conditions: int) -> None:
    """Refuses codes that cannot be completed; hidden ones are not looked at.

    Raises:
        ValueError: codes of another number of sites, or as :func:`check_given` of those that are shown.
    """
    if z.shape != hidden.shape or z.shape[-1] != len(cardinalities):
        raise ValueError(f"codes and what is hidden have shape (R, {len(cardinalities)}); got {tuple(z.shape)} and {tuple(hidden.shape)}")
    check_given(z.masked_fill(hidden, 0), cardinalities, conditions)


def checked_exploration(epsilon: float, temperature: float) -> None:
    """Refuses settings that are no distribution.

    Raises:
        ValueError: epsilon lies outside [0, 1] or the temperature is not positive.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is a probability, so it must lie in [0, 1]; got {epsilon}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite; got {temperature}")


def flattened(logits: Float[Tensor, "*rows K"], epsilon: float, temperature: float) -> Float[Tensor, "*rows K"]:
    """log((1 - epsilon) softmax(logits / temperature) + epsilon / K), in float32 or better; codes with a logit of -inf do not exist and stay so."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p = (logits if temperature == 1 else logits / temperature).log_softmax(-1)
    if epsilon == 0:
        return log_p
    missing = logits == -math.inf
    log_uniform = -(~missing).sum(-1, keepdim=True).to(log_p.dtype).log().expand_as(log_p)
    if epsilon == 1:
        return log_uniform.masked_fill(missing, -math.inf)
    # -inf comes last: logaddexp of -inf and -inf would have the gradient nan
    return torch.logaddexp(log_p + math.log1p(-epsilon), log_uniform + math.log(epsilon)).masked_fill(missing, -math.inf)


def inverse_cdf(log_p: Float[Tensor, "*rows K"], u: Float[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """The code at which the cumulative distribution passes u in (0, 1): one uniform number a code."""
    cdf = log_p.exp().cumsum(-1)
    return (cdf <= u.unsqueeze(-1) * cdf[..., -1:]).sum(-1).clamp_(max=log_p.shape[-1] - 1)
