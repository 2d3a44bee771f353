"""The exact posterior of a Pyro program's discrete variables, by enumeration of all values of a datum: the oracle of its guides.

Pyro's ``TraceEnum_ELBO`` sums variable by variable and gives log p(x); this scores all M = prod_i K_i joint values, so it knows p(z|x) itself.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.codes.table import TableCodes
from latentcomp.enumeration import all_codes, checked
from latentcomp.pyro.layout import Layout
from latentcomp.pyro.program import Model, Program

CHUNK = 2**22  # log-probabilities of one run of the program


class ExactPosterior(NamedTuple):
    """p(z|x) of each datum.

    Attributes:
        codes: ``(M, N)`` all values of z, in the order of ``all_codes``.
        log_p: ``(B, M)`` log p(z|x) in nats.
        log_px: ``(B,)`` log p(x) in nats.
        layout: which site of the model each column of z belongs to.
    """

    codes: Int[Tensor, "M N"]
    log_p: Float[Tensor, "B M"]
    log_px: Float[Tensor, " B"]
    layout: Layout

    @property
    def distribution(self) -> TableCodes:
        """p(z|x) to sample from."""
        return TableCodes(self.log_p, self.layout.cardinalities)

    def marginal(self, name: str) -> Float[Tensor, "B V K"]:
        """p(z_v = k | x) of the V variables of a site.

        Raises:
            KeyError: the model has no such latent site.
        """
        start = 0
        for site in self.layout.sites:
            if site.name == name:
                columns = self.codes[:, start : start + site.variables]
                chosen = torch.nn.functional.one_hot(columns, len(site.support)).to(self.log_p.dtype)
                return torch.einsum("bm,mvk->bvk", self.log_p.exp(), chosen)
            start += site.variables
        raise KeyError(f"{name!r} is no latent site of the model; it has {[site.name for site in self.layout.sites]}")


@torch.no_grad()
def exact_posterior(model: Model, *args: Any, **kwargs: Any) -> ExactPosterior:
    """Scores all joint values of the discrete variables inside the data plate, for each datum.

    Args:
        model: the Pyro model; where its data plate is not clear, pass a ``Program`` made with ``plate=`` in its place.
        args: its arguments.
        kwargs: likewise.

    Raises:
        UnsupportedModel: see :func:`latentcomp.pyro.layout.layout_of`.
        TooManyCodes: says the count, the memory and the alternative.
    """
    program = model if isinstance(model, Program) else Program(model, (args, kwargs))
    checked(program.cardinalities, program.size)
    codes = all_codes(program.cardinalities, program.index.device)
    parts = codes.split(max(1, CHUNK // program.size))
    log_joint = torch.cat([program.log_joint(None, part.unsqueeze(1).expand(-1, program.size, -1)) for part in parts]).T
    log_px = log_joint.logsumexp(-1)
    return ExactPosterior(codes, log_joint - log_px.unsqueeze(-1), log_px, program.layout)
