"""Where a Pyro program keeps its discrete latent variables, and how their values become code sequences.

A program's latent sites inside the data plate have values of any shape: a site under another plate holds one variable for each of its entries, one with
``to_event`` one for each entry of the event. Here each single variable is a site of z in the sense of this package: a datum's z lists all of them, in the
order in which the program asks for them, each as the position of its value in the enumerated support.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

Node = dict[str, Any]


class UnsupportedModel(ValueError):
    """A program that a GFlowNet guide cannot be built for; the message names the site and says what to do."""


class Site(NamedTuple):
    """One latent ``pyro.sample`` statement.

    Attributes:
        name: its name.
        plates: the sizes of the axes ``-nesting .. -1`` of its batch shape, without the data axis.
        event: the shape of the independent variables that ``to_event`` put into one event.
        support: ``(K, ...)`` the K values that each variable can take, in the site's dtype.
    """

    name: str
    plates: tuple[int, ...]
    event: tuple[int, ...]
    support: Tensor

    @property
    def variables(self) -> int:
        """How many sites of z it fills, for each datum."""
        return math.prod(self.plates) * math.prod(self.event)


class Layout(NamedTuple):
    """The data plate, and the sites whose values make up z.

    Attributes:
        plate: the name of the data plate.
        dim: its axis, counted from the right.
        nesting: how many axes all plates take.
        sites: in the order of the program.
    """

    plate: str
    dim: int
    nesting: int
    sites: tuple[Site, ...]

    @property
    def place(self) -> int:
        """The data axis among the plates' axes, counted from the left."""
        return self.nesting + self.dim

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """K_i of each of the N variables of a datum."""
        return tuple(len(site.support) for site in self.sites for _ in range(site.variables))

    def unpack(self, z: Int[Tensor, "L B N"]) -> dict[str, Tensor]:
        """The value of each site, of shape ``(L, *plates, *event)`` with the data axis among the plates."""
        parts = z.split([site.variables for site in self.sites], -1)
        values = {}
        for site, part in zip(self.sites, parts, strict=True):
            codes = part.reshape(*part.shape[:2], *site.plates, *site.event).movedim(1, 1 + self.place)
            values[site.name] = site.support.to(z.device)[codes]
        return values

    def pack(self, values: Mapping[str, Tensor]) -> Int[Tensor, "B N"]:
        """The codes of values ``(*plates, *event)``; the inverse of :meth:`unpack` for one sample."""
        parts = []
        for site in self.sites:
            own = site.support.ndim - 1  # axes of a single value, as those of a one-hot vector
            value, support = values[site.name], site.support.to(values[site.name].device)
            equal = value.unsqueeze(value.ndim - own) == support
            codes = (equal.flatten(-own).all(-1) if own else equal).long().argmax(-1)
            codes = codes.reshape((1,) * (self.nesting + len(site.event) - codes.ndim) + codes.shape)
            parts.append(codes.movedim(self.place, 0).reshape(codes.shape[self.place], -1))
        return torch.cat(parts, -1)


def sample_sites(nodes: Iterable[tuple[str, Node]]) -> Iterator[Node]:
    """The random variables of a trace, observed ones included, without subsampling and what ``pyro.deterministic`` records."""
    for _, node in nodes:
        if node["type"] == "sample" and not isinstance(node["fn"], _Subsample) and not node["infer"].get("_deterministic"):
            yield node


def plates_of(node: Node) -> dict[str, Any]:
    """The plates that a site stands in, by name.

    Raises:
        UnsupportedModel: one of them is a Python loop.
    """
    for frame in node["cond_indep_stack"]:
        if not frame.vectorized:
            raise UnsupportedModel(f"site {node['name']!r} stands in the sequential plate {frame.name!r}: write `with pyro.plate(...)` in place of the loop")
    return {frame.name: frame for frame in node["cond_indep_stack"]}


def layout_of(nodes: Iterable[tuple[str, Node]], plate: str | None = None) -> Layout:
    """Finds the data plate and the latent sites in a trace of the program.

    The data plate is the one that all latent and, as far as they share a plate with them, all observed sites have in common.

    Raises:
        UnsupportedModel: a latent site is continuous, has an infinite support or lies outside the data plate, or the data plate is not clear.
    """
    found = list(sample_sites(nodes))
    latent = [node for node in found if not node["is_observed"]]
    if not latent:
        raise UnsupportedModel("the model has no latent sites, so there is no posterior to learn; unobserved discrete `pyro.sample` sites are looked for")
    for node in latent:
        _check_discrete(node)
    frames = {name: frame for node in found for name, frame in plates_of(node).items()}
    plate = plate or _data_plate(found, latent)
    if plate not in frames:
        raise UnsupportedModel(f"the model has no plate named {plate!r}; it has {sorted(frames)}")
    for node in latent:
        if plate not in plates_of(node):
            raise UnsupportedModel(_outside(node, plate))
    nesting, dim = max(-frame.dim for frame in frames.values()), frames[plate].dim
    return Layout(plate, dim, nesting, tuple(_site(node, nesting, dim) for node in latent))


def _data_plate(found: list[Node], latent: list[Node]) -> str:
    """The one plate that all of them share."""
    for node in latent:
        if not plates_of(node):
            raise UnsupportedModel(_outside(node, "data"))
    shared = set.intersection(*(set(plates_of(node)) for node in latent))
    if not shared:
        raise UnsupportedModel(
            f"the latent sites {[node['name'] for node in latent]} share no plate, so it is not clear what a datum is: put all of them under one pyro.plate, "
            "learn the others with a separate guide, or hide them with pyro.poutine.block"
        )
    for node in found:
        shared = shared & set(plates_of(node)) or shared
    if len(shared) > 1:
        raise UnsupportedModel(f"several plates hold all latent sites: {sorted(shared)}; say which one counts the data: plate={min(shared)!r}")
    return shared.pop()


def _outside(node: Node, plate: str) -> str:
    return (
        f"latent site {node['name']!r} lies outside the data plate, so it has one value for all data and no posterior of a single datum: put it under "
        f"`with pyro.plate({plate!r}, ...)`, learn it with a separate guide, or hide it with pyro.poutine.block(model, hide=[{node['name']!r}])"
    )


def _check_discrete(node: Node) -> None:
    fn, _ = _single(node["fn"])
    if not fn.has_enumerate_support:
        kind = "has an infinite support" if getattr(fn.support, "is_discrete", False) else "is continuous"
        raise UnsupportedModel(
            f"latent site {node['name']!r} ({type(fn).__name__}) {kind}: a GFlowNet guide holds discrete sites of finitely many values; learn it with a "
            f"separate guide, or hide it with pyro.poutine.block(model, hide=[{node['name']!r}])"
        )


def _single(fn: Any) -> tuple[Any, tuple[int, ...]]:
    """The distribution of single variables, and the shape of those that ``to_event`` joined."""
    event: tuple[int, ...] = ()
    while hasattr(fn, "reinterpreted_batch_ndims") or type(fn).__name__ == "ExpandedDistribution":
        if hasattr(fn, "reinterpreted_batch_ndims"):
            event += tuple(fn.event_shape[: fn.reinterpreted_batch_ndims])
        fn = fn.base_dist
    return fn, event


def _site(node: Node, nesting: int, dim: int) -> Site:
    fn, event = _single(node["fn"])
    batch = node["fn"].batch_shape
    batch = (1,) * (nesting - len(batch)) + tuple(batch)
    used = {frame.dim for frame in plates_of(node).values()}
    stray = [size for axis, size in enumerate(batch, -len(batch)) if size > 1 and axis not in used]
    if stray or len(batch) > nesting:
        raise UnsupportedModel(f"site {node['name']!r} has the batch shape {batch}, of which axes belong to no plate: declare a pyro.plate or use .to_event")
    try:
        support = fn.enumerate_support(expand=False)
    except NotImplementedError as error:
        raise UnsupportedModel(f"the values of site {node['name']!r} cannot be listed alike for all data: {error}") from error
    plates = batch[: nesting + dim] + batch[nesting + dim + 1 :]
    return Site(node["name"], plates, event, support.reshape(len(support), *fn.event_shape).detach())
