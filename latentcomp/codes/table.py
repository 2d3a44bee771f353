"""A probability for each of the K^N sequences: the exact posterior, where there are few enough of them."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.distribution import CodeDistribution, checked_exploration, flattened, inverse_cdf
from latentcomp.noise import Noise


class TableCodes(CodeDistribution):
    """The distribution proportional to exp(logits).

    Args:
        logits: ``(B, M)`` unnormalised log-probabilities of all M = prod_i K_i sequences, the first site varying slowest.
        cardinalities: K_i of each site.
    """

    def __init__(self, logits: Float[Tensor, "*B M"], cardinalities: Sequence[int]) -> None:
        if logits.shape[-1] != math.prod(cardinalities):
            raise ValueError(f"a table over sites of cardinalities {tuple(cardinalities)} has {math.prod(cardinalities)} entries, not {logits.shape[-1]}")
        self.logits = logits
        self.log_p = flattened(logits, 0.0, 1.0)
        super().__init__(logits.shape[:-1], cardinalities)

    @property
    def _device(self) -> torch.device:
        return self.log_p.device

    def _position(self, z: Int[Tensor, "*rows N"]) -> Int[Tensor, "*rows"]:
        position = torch.zeros_like(z[..., 0])
        for site, k in enumerate(self.cardinalities):
            position = position * k + z[..., site]
        return position

    def _sequence(self, position: Int[Tensor, "*rows"]) -> Int[Tensor, "*rows N"]:
        return torch.stack(torch.unravel_index(position, self.cardinalities), -1)

    def _draw(self, leading: torch.Size, rows: int, noise: Noise) -> Int[Tensor, "... N"]:
        cdf = self.log_p.double().exp().cumsum(-1)
        u = noise.uniform(leading, (1,), torch.float64).flatten(0, -3) if leading else noise.uniform((1,), (1,), torch.float64)
        u = u.squeeze(-1).T.contiguous()  # (rows, samples): one sorted table a row
        position = torch.searchsorted(cdf.expand(rows, -1).contiguous(), u * cdf[..., -1:], right=True).clamp_(max=cdf.shape[-1] - 1)
        return self._sequence(position.T).reshape(*leading, rows, -1)

    def log_prob(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows"]:
        """log q(z), in nats, looked up."""
        log_p = self.log_p.expand(*z.shape[:-1], self.log_p.shape[-1])
        return log_p.gather(-1, self._position(z).unsqueeze(-1)).squeeze(-1)

    @torch.no_grad()
    def redraw(self, z: Int[Tensor, "*rows N"], cut: Int[Tensor, "*rows"], noise: Noise) -> tuple[Int[Tensor, "*rows N"], Float[Tensor, "*rows"]]:
        """A draw among the sequences that agree with z before the cut."""
        sequences = self._sequence(torch.arange(self.log_p.shape[-1], device=z.device))
        behind = torch.arange(z.shape[-1], device=z.device) >= cut.unsqueeze(-1)
        agree = ((sequences == z.unsqueeze(-2)) | behind.unsqueeze(-2)).all(-1)
        u = noise.uniform(z.shape[:-2], (), torch.float64)
        new = self._sequence(inverse_cdf(self.log_p.double().masked_fill(~agree, -math.inf).log_softmax(-1), u))
        return new, self.log_prob(new)

    def log_prob_steps(self, z: Int[Tensor, "*rows N"]) -> Float[Tensor, "*rows N"]:
        """log q(z_i | z_<i): the ratio of two sums over the continuations of a prefix."""
        tree = self.log_p.view(*self.batch_shape, *self.cardinalities)
        marginals, position = [torch.zeros(z.shape[:-1], dtype=self.log_p.dtype, device=z.device)], torch.zeros_like(z[..., 0])
        for site, k in enumerate(self.cardinalities):
            prefixes = tree.flatten(len(self.batch_shape), len(self.batch_shape) + site)
            if site < len(self.cardinalities) - 1:
                prefixes = prefixes.flatten(len(self.batch_shape) + 1).logsumexp(-1)
            position = position * k + z[..., site]
            marginals.append(prefixes.expand(*z.shape[:-1], prefixes.shape[-1]).gather(-1, position.unsqueeze(-1)).squeeze(-1))
        log_p = torch.stack(marginals, -1)
        return log_p.diff(dim=-1).masked_fill(log_p[..., :-1] == -math.inf, 0.0)  # after an impossible prefix 0, so that the sum is still log q(z)

    @property
    def mode(self) -> Int[Tensor, "*B N"]:
        """The most probable sequence, truly, not greedily."""
        return self._sequence(self.log_p.argmax(-1))

    def explore(self, epsilon: float = 0.0, temperature: float = 1.0) -> "TableCodes":
        """The whole table flattened by the temperature, then mixed with the uniform distribution over all sequences."""
        checked_exploration(epsilon, temperature)
        return TableCodes(flattened(self.logits, epsilon, temperature), self.cardinalities)

    def table(self) -> Float[Tensor, "*B M"]:
        """log q of all sequences."""
        return self.log_p
