"""Our latent-variable models as Pyro programs, so that Pyro's own algorithms join the comparison."""

from collections.abc import Callable
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.distributions import Categorical, TorchDistribution
from torch import Tensor

from latentcomp.likelihoods import PixelDistribution
from latentcomp.model import LatentVariableModel


class Pixels(TorchDistribution):
    """p(x|z) as a Pyro distribution; the event is the image."""

    arg_constraints = {}
    has_rsample = False

    def __init__(self, p: PixelDistribution, batch_shape: torch.Size | None = None) -> None:
        self.p = p
        super().__init__(p.batch_shape if batch_shape is None else batch_shape, p.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the likelihood."""
        return self.p.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Pixels":
        """The same images, said to be more."""
        return Pixels(self.p, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Images, without a gradient."""
        x = self.p.sample(torch.Size(sample_shape))
        return x.expand(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, x: Float[Tensor, "*data C H W"]) -> Float[Tensor, "*rows"]:
        """log p(x|z) in nats, summed over pixels."""
        return self.p.log_prob(x)


def as_pyro(model: LatentVariableModel, name: str = "model") -> Callable[..., Tensor]:
    """The Pyro program ``program(x, c=None)`` of a model: sites ``z_0 ... z_{N-1}``, each given those before it, and the observed ``x``, in plate ``data``.

    The sites are separate, so that ``TraceEnum_ELBO`` can enumerate them (with ``infer={"enumerate": "parallel"}``, by ``config_enumerate``).

    Args:
        model: p(x, z).
        name: of its parameters in Pyro's store.

    Returns:
        The program; it returns the codes ``(B, N)``.
    """

    def program(x: Float[Tensor, "B C H W"], c: Tensor | None = None) -> Tensor:
        pyro.module(name, model)
        with pyro.plate("data", len(x)):
            z: list[Tensor] = []
            prior = model.prior(c)
            for site, k in enumerate(model.cardinalities):
                known = _stacked(z, len(model.cardinalities), len(x), x.device)
                z.append(pyro.sample(f"z_{site}", Categorical(logits=prior.conditionals(known)[..., site, :k])))
            codes = _stacked(z, len(model.cardinalities), len(x), x.device)
            pyro.sample("x", Pixels(model.decode(model.codebook(codes))), obs=x)
        return codes

    return program


def _stacked(z: list[Tensor], sites: int, size: int, device: torch.device) -> Tensor:
    """Codes ``(*S, B, N)`` whose unknown sites are 0; an enumerated site has axes of its own on the left."""
    shape = torch.broadcast_shapes((size,), *(code.shape for code in z))
    known = [code.expand(shape) for code in z]
    return torch.stack([*known, *[torch.zeros(shape, dtype=torch.long, device=device)] * (sites - len(z))], -1)
