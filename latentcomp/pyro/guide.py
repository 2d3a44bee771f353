"""A guide that learns p(z|x) of a Pyro program: q(z|x) = prod_i q(z_i | z_<i, x) over all discrete variables of a datum, amortised over data.

Mean-field guides such as ``AutoDiscreteParallel`` make the variables of a datum independent of each other; this one keeps what a posterior of
explaining-away, of a hidden Markov path or of a set of interacting causes depends on.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from jaxtyping import Float, Int
from pyro.distributions import Delta, TorchDistribution, constraints
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from latentcomp.codes.distribution import CodeDistribution
from latentcomp.nn.sequence import SequenceNetwork
from latentcomp.nn.site_mlp import SpreadMLP
from latentcomp.phases.e_step import AmortisedLogZ
from latentcomp.posteriors.autoregressive import Autoregressive
from latentcomp.pyro.layout import Layout, Node
from latentcomp.pyro.program import Model, Program

WIDTH = 256
Policy = Callable[[tuple[int, ...], int], SequenceNetwork]


class Standardised(nn.Module):
    """Features less their mean over their standard deviation, both of the first batch; a constant feature stays as it is."""

    shift: Tensor
    scale: Tensor

    def __init__(self, x: Float[Tensor, "B F"]) -> None:
        super().__init__()
        scale = x.std(0, correction=0)
        self.register_buffer("shift", x.mean(0))
        self.register_buffer("scale", torch.where(scale > 0, scale, 1.0))

    def forward(self, x: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """The standardised features."""
        return (x - self.shift) / self.scale


class JointCodes(TorchDistribution):
    """q(z|x) as a Pyro distribution: the data axis is where the data plate has it, the event is z.

    Args:
        q: of B data.
        shape: the batch shape, of which the data axis is ``dim``.
        dim: the data axis, counted from the right.
    """

    arg_constraints = {}
    has_rsample = False
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, q: CodeDistribution, shape: torch.Size, dim: int) -> None:
        self.q, self.dim = q, dim
        super().__init__(shape, q.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "JointCodes":
        """More samples; the data stay."""
        return JointCodes(self.q, torch.Size(batch_shape), self.dim)

    def _inner(self, shape: torch.Size) -> tuple[int, ...]:
        """A batch shape with the data axis last."""
        return (*shape[: self.dim], *shape[self.dim :][1:], shape[self.dim])

    def sample(self, sample_shape: Any = ()) -> Int[Tensor, "..."]:
        """Codes, one set for each entry of the batch shape."""
        shape = torch.Size((*sample_shape, *self.batch_shape))
        return self.q.sample(self._inner(shape)[:-1]).movedim(-2, self.dim - 1)

    def log_prob(self, z: Int[Tensor, "..."]) -> Float[Tensor, "..."]:
        """log q(z|x) in nats."""
        return self.q.log_prob(z.movedim(self.dim - 1, -2)).movedim(-1, self.dim)


class GFlowNetGuide(nn.Module):
    """An amortised posterior over all discrete latent variables inside a Pyro model's data plate. It is set up at its first call, as Pyro's autoguides are.

    Calling it samples q itself. It is trained by ``GFlowNetELBO`` or ``ReweightedWakeSleep``.

    Args:
        model: the Pyro model.
        features: a function of the model's arguments that gives ``(B, ...)`` what the posterior reads; by default all that the model observes inside the
            data plate.
        trunk: maps those to features of x ``(B, 256)``; by default a perceptron on standardised values.
        policy: makes the network over sites from ``(cardinalities, 256)``; by default ``SpreadMLP``, whose prefixes have 64 features;
            ``CausalTransformer`` is another.
        plate: the name of the data plate, where the model leaves it open.
        vectorized: whether the model broadcasts over an axis to the left of all plates; False repeats it for each sample.

    Attributes:
        log_z: a head for ``TrajectoryBalance(guide.log_z)``: log Z(x), at its optimum log p(x).
    """

    layout: Layout | None
    posterior: Autoregressive

    def __init__(
        self,
        model: Model,
        features: Callable[..., Tensor] | None = None,
        trunk: nn.Module | None = None,
        policy: Policy = SpreadMLP,
        plate: str | None = None,
        vectorized: bool = True,
    ) -> None:
        super().__init__()
        self._model, self._features, self._trunk, self._policy = (model,), features, (trunk,), policy  # in tuples: no submodules
        self._plate, self._vectorized = plate, vectorized
        self.layout = None
        self.log_z = AmortisedLogZ(WIDTH)

    def program(self, model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Program, Tensor]:
        """The program at these arguments, and what the posterior reads of it. The first call sets the guide up.

        Raises:
            UnsupportedModel: the program has no posterior that this guide could hold; says why and what to do.
        """
        program = Program(model, (args, kwargs), self.layout, self._plate, self._vectorized)
        x = program.features() if self._features is None else self._features(*args, **kwargs)
        if len(x) != program.size:
            raise ValueError(f"features gives {len(x)} rows for {program.size} data: one row for each datum of the plate {program.layout.plate!r} is needed")
        if self.layout is None:
            self._set_up(program, x)
        return program, x

    def _set_up(self, program: Program, x: Tensor) -> None:
        (trunk,) = self._trunk
        if trunk is None:
            flat = x.flatten(1)
            layers = nn.Linear(flat.shape[-1], WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU()  # log p(x, z) of a program is mostly smooth in x
            trunk = nn.Sequential(nn.Flatten(), Standardised(flat), *layers)
        self.posterior = Autoregressive(trunk, self._policy(program.cardinalities, WIDTH)).to(x.device)
        self.log_z.to(x.device)
        self.layout = program.layout

    @property
    def dreams(self) -> bool:
        """Whether what the posterior reads can be read off a dream: not where ``features`` reads the arguments."""
        return self._features is None

    def register(self) -> None:
        """Shows Pyro the parameters where somebody watches, as ``SVI`` does, which must find them; else they are torch's alone.

        Raises:
            RuntimeError: the parameter store holds those of another guide.
        """
        if not am_i_wrapped():
            return
        name = type(self).__name__
        pyro.module(name, self)
        stored = pyro.get_param_store()
        for key, parameter in self.named_parameters():
            if parameter.requires_grad and stored[f"{name}$$${key}"] is not parameter:
                raise RuntimeError("Pyro's parameter store holds another GFlowNetGuide's parameters: call pyro.clear_param_store() before making a new one")

    def q(self, *args: Any, **kwargs: Any) -> CodeDistribution:
        """The amortised posterior of the data at these arguments, over codes ``(B, N)``; ``sites`` gives samples their sites' names and values."""
        program, x = self.program(self._model[0], args, kwargs)
        return self.posterior(program, x)

    def sites(self, z: Int[Tensor, "*S B N"]) -> dict[str, Tensor]:
        """The values of the model's sites that codes stand for, of shape ``(*S, *plates, *event)``, in each site's dtype."""
        if self.layout is None:
            raise RuntimeError("the guide has not been set up: call it once with the model's arguments")
        values = self.layout.unpack(z.reshape(-1, *z.shape[-2:]))
        return {name: value.view(*z.shape[:-2], *value.shape[1:]) for name, value in values.items()}

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """z ~ q(z|x): the values of the model's latent sites, each sampled under its own name."""
        program, x = self.program(self._model[0], args, kwargs)
        self.register()
        layout, plates = program.layout, _plates(program)
        shape = torch.Size([program.size] + [1] * (-layout.dim - 1))
        with plates[layout.plate]:
            z = pyro.sample("_latentcomp_z", JointCodes(self.posterior(program, x), shape, layout.dim), infer={"is_auxiliary": True})
        left = z.ndim - 1 + layout.dim  # axes left of the data: those of samples, and those of other plates, which are 1
        lead = z.shape[: max(0, left - layout.place)]
        values = self.sites(z.reshape(*lead, program.size, -1))
        return {name: _named(program.nodes[name], value, plates) for name, value in values.items()}


def _named(node: Node, value: Tensor, plates: dict[str, Any]) -> Tensor:
    """One site's value, under its name and in its plates."""
    with ExitStack() as stack:
        for frame in node["cond_indep_stack"]:
            stack.enter_context(plates[frame.name])
        return pyro.sample(node["name"], Delta(value, event_dim=len(node["fn"].event_shape)))


def _plates(program: Program) -> dict[str, Any]:
    """A plate for each that the latent sites stand in; the data plate with the rows that the model chose."""
    plates = {}
    for site in program.layout.sites:
        for frame in program.nodes[site.name]["cond_indep_stack"]:
            if frame.name not in plates:
                size = frame.full_size if frame.full_size and frame.full_size > 0 else program.size
                chosen = program.chosen.get(frame.name)
                plates[frame.name] = pyro.plate(frame.name, size, subsample=chosen if chosen is not None and len(chosen) < size else None, dim=frame.dim)
    return plates
