"""A Pyro model with its arguments, as a latent-variable model p(x, z) of this package.

x is what the program observes inside the data plate, z what it leaves open there. log p(x, z) is one number for each datum: the sum of the
log-probabilities of all its sites, whatever other plates they stand in. S samples of all data are scored in one run of the program: the values get an axis
to the left of all plates, and the program broadcasts over it as it does over Pyro's own vectorised particles.

Scale and subsampling belong to the objective, not to the posterior of a datum: log p(x, z) leaves them out, and the ELBO multiplies by them.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from pyro import poutine
from pyro.distributions import Categorical, Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.functional import one_hot

from latentcomp.model import LatentVariableModel
from latentcomp.noise import Noise
from latentcomp.pyro.layout import Layout, Node, UnsupportedModel, layout_of, plates_of, sample_sites

Model = Callable[..., Any]


class Assigned(Messenger):
    """Gives sites their values without calling them observed; a subsampling plate is such a site, too."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class Program(LatentVariableModel):
    """p(x, z) of a program at some arguments. It runs the program once, to see what it observes.

    Args:
        model: the program.
        arguments: ``(args, kwargs)`` that it is called with.
        layout: of its latent sites; found in that run where it is None.
        plate: the name of the data plate, where it must be said.
        vectorized: score all samples in one run; False repeats the program for each, for programs that do not broadcast.

    Attributes:
        layout: of the latent sites.
        size: B, the number of data in this call.
        index: ``(B,)`` their positions in the data set: those that a subsampling plate chose, or 0..B-1.
        scale: what the plate, or ``poutine.scale``, multiplies each datum's log-probabilities by.
        chosen: the rows that a subsampling plate chose, by the plate's name.
        outside: log p of what is observed outside the data plate, scaled, as of the first run that recorded its gradient, else of the last.

    Raises:
        UnsupportedModel: see :func:`latentcomp.pyro.layout.layout_of`; or scales that differ between sites or data.
    """

    def __init__(
        self, model: Model, arguments: tuple[tuple[Any, ...], dict[str, Any]], layout: Layout | None = None, plate: str | None = None, vectorized: bool = True
    ) -> None:
        nn.Module.__init__(self)
        self.program, self._arguments, self._vectorized = model, arguments, vectorized
        self.outside: Tensor | float = 0.0
        with torch.no_grad(), poutine.block():
            trace: Any = poutine.trace(model).get_trace(*arguments[0], **arguments[1])
        self._first = trace
        self.layout = layout or layout_of(trace.nodes.items(), plate)
        self._check_latent(trace)
        inside = list(self._inside(trace))
        shape = next(node["fn"].batch_shape for node in inside if node["name"] == self.layout.sites[0].name)
        self.size = shape[self.layout.dim]
        chosen = trace.nodes.get(self.layout.plate, {}).get("value")
        device = trace.nodes[self.layout.sites[0].name]["value"].device
        self.index = torch.arange(self.size, device=device) if chosen is None else torch.as_tensor(chosen, device=device)
        self.chosen = {} if chosen is None else {self.layout.plate: chosen}
        self.scale = _common_scale(inside)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """K_i of each of the N variables of a datum."""
        return self.layout.cardinalities

    @property
    def nodes(self) -> dict[str, Node]:
        """The sites of the first run, by name."""
        return self._first.nodes

    def decode(self, e: Tensor) -> Any:
        """A program has no codebook, so no relaxed code can pass it."""
        raise TypeError("a Pyro program is no decoder of embeddings: choose a learner that only scores codes, such as GFlowNetEM or WakeSleep")

    def check_shape(self, x: Tensor) -> None:
        """The observations are the program's own."""

    def features(self) -> Float[Tensor, "B F"]:
        """What the program observes inside the data plate, one row for each datum: categorical values one-hot, others as they are, masked ones zero.

        Raises:
            UnsupportedModel: it observes nothing there.
        """
        return self._features(self._first)

    def _features(self, trace: Any) -> Float[Tensor, "B F"]:
        columns = [self._column(node) for node in self._inside(trace) if _is_data(node)]
        if not columns:
            raise UnsupportedModel(
                f"the model observes nothing inside the plate {self.layout.plate!r}, so there is nothing for the posterior to read: pass "
                "features=, a function of the model's arguments that gives one row for each datum"
            )
        return torch.cat(columns, -1)

    def _column(self, node: Node) -> Float[Tensor, "B F"]:
        fn, value = node["fn"], torch.as_tensor(node["value"])
        base = fn
        while hasattr(base, "base_dist"):
            base = base.base_dist
        value = value.expand(torch.broadcast_shapes(value.shape, fn.shape()))
        if isinstance(base, Categorical):
            value = one_hot(value.long(), base.param_shape[-1])
        value = value.to(torch.get_default_dtype())
        if node["mask"] is not None:
            mask = torch.as_tensor(node["mask"], device=value.device)
            value = torch.where(mask.reshape(mask.shape + (1,) * (value.ndim - len(fn.batch_shape))), value, 0.0)
        rows = value.movedim(self.layout.dim + len(fn.batch_shape), 0)
        return rows.reshape(len(rows), -1)

    def log_joint(self, x: Any, z: Int[Tensor, "*S B N"], c: Any = None) -> Float[Tensor, "*S B"]:
        """log p(x, z) of each datum in nats, for its own x; a masked latent variable counts as uniform, so that p(x) is what it was.

        Raises:
            UnsupportedModel: something outside the data plate depends on z.
        """
        lead, rows = z.shape[:-2], z.reshape(-1, *z.shape[-2:])
        if not self._vectorized and len(rows) > 1:
            return torch.stack([self.log_joint(x, row, c) for row in rows]).view(*lead, -1)
        values = self.layout.unpack(rows)
        if not lead:
            values = {name: value[0] for name, value in values.items()}
        trace = self._run(values)
        total = sum((self._per_datum(node) for node in self._inside(trace)), torch.zeros(()))
        outside = sum((self._outside(node) for node in self._beyond(trace)), 0.0)
        if not getattr(self.outside, "requires_grad", False):
            self.outside = outside
        return total.expand(len(rows), self.size).view(*lead, self.size)

    def sample(self, n: int, c: Any = None, noise: Noise | None = None) -> tuple[Float[Tensor, "B F"], Int[Tensor, "B N"]]:
        """Dreams: the program's latent and observed sites drawn anew, one for each datum of this call; draws follow Pyro's own seed.

        Raises:
            UnsupportedModel: a ``pyro.factor`` inside the data plate, which makes the program unnormalised.
            ValueError: n is another number than the program has data.
        """
        if n != self.size:
            raise ValueError(f"at these arguments the program has {self.size} data, so it dreams as many; asked for {n}")
        for node in self._inside(self._first):
            if isinstance(node["fn"], Unit):
                raise UnsupportedModel(f"pyro.factor {node['name']!r} makes the program an unnormalised energy, from which nothing can be dreamt: drop sleep")
        with torch.no_grad(), poutine.block():
            trace: Any = poutine.trace(poutine.uncondition(Assigned(self.chosen)(self.program))).get_trace(*self._arguments[0], **self._arguments[1])
        return self._features(trace), self.layout.pack({site.name: trace.nodes[site.name]["value"] for site in self.layout.sites})

    def _run(self, values: Mapping[str, Tensor]) -> Any:
        """A trace of the program with these values of its latent sites; parameters are seen by whoever traces from outside."""
        trace = poutine.trace(Assigned(self.chosen | dict(values))(self.program))
        with poutine.block(hide_fn=lambda msg: msg["type"] == "sample"):
            found = trace.get_trace(*self._arguments[0], **self._arguments[1])
        self._check_latent(found)
        return found

    def _check_latent(self, trace: Any) -> None:
        known = {site.name for site in self.layout.sites}
        latent = {node["name"] for node in sample_sites(trace.nodes.items()) if not node["is_observed"]}
        if latent != known:
            raise UnsupportedModel(
                f"the guide knows the latent sites {sorted(known)}, the model has {sorted(latent)}: give the guide and the ELBO the same model (hide what "
                "another guide learns with pyro.poutine.block in both), and keep its sites the same from call to call"
            )

    def _inside(self, trace: Any) -> Iterator[Node]:
        """Sites of the data plate."""
        return (node for node in sample_sites(trace.nodes.items()) if self.layout.plate in plates_of(node))

    def _beyond(self, trace: Any) -> Iterator[Node]:
        """Observed sites outside it."""
        return (node for node in sample_sites(trace.nodes.items()) if self.layout.plate not in plates_of(node))

    def _log_prob(self, node: Node) -> Tensor:
        log_p, mask = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"]), node["mask"]
        site = next((site for site in self.layout.sites if site.name == node["name"]), None)
        if mask is None or mask is True or site is None:
            return scale_and_mask(log_p, mask=mask)
        uniform = log_p.new_tensor(-math.prod(site.event) * math.log(len(site.support)))
        return torch.where(torch.as_tensor(mask, device=log_p.device), log_p, uniform)

    def _per_datum(self, node: Node) -> Float[Tensor, "L B"]:
        log_p, nesting = self._log_prob(node), self.layout.nesting
        if log_p.ndim > nesting + 1:
            raise UnsupportedModel(f"site {node['name']!r} has {log_p.ndim - nesting - 1} batch axes that belong to no plate: use .to_event, or declare plates")
        log_p = log_p.reshape((1,) * (nesting + 1 - log_p.ndim) + log_p.shape)
        return log_p.movedim(self.layout.dim, 1).flatten(2).sum(-1) if nesting > 1 else log_p

    def _outside(self, node: Node) -> Tensor:
        log_p = self._log_prob(node)
        if log_p.ndim > self.layout.nesting and log_p.shape[-self.layout.nesting - 1] > 1:
            raise UnsupportedModel(f"site {node['name']!r} lies outside the data plate and depends on latent values inside it: move it into the plate")
        return (log_p * node["scale"]).sum()


def _is_data(node: Node) -> bool:
    """Whether a site's value is an observation, also one that is dreamt just now."""
    observed = node["is_observed"] or node["infer"].get("was_observed", False)
    return observed and not isinstance(node["fn"], Unit)


def _common_scale(nodes: list[Node]) -> float:
    """The scale that all sites of the data plate share.

    Raises:
        UnsupportedModel: they differ, which would temper the posterior; or data differ.
    """
    scales: dict[str, float] = {}
    for node in nodes:
        scale = torch.as_tensor(node["scale"])
        if scale.numel() > 1 and bool((scale != scale.flatten()[0]).any()):
            raise UnsupportedModel(f"site {node['name']!r} has a scale for each datum: weigh data by how often they are seen, or subsample with the plate")
        scales[node["name"]] = float(scale.flatten()[0])
    if len(set(scales.values())) > 1:
        raise UnsupportedModel(
            f"sites inside the data plate have different scales, {scales}: that is another posterior than the model's; scale the whole model alike with "
            "poutine.scale, and subsample no plate but that of the data"
        )
    return next(iter(scales.values()))
