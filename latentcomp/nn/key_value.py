"""Keys and values that a causal transformer keeps of the positions it has read, and how the next position looks them up.

A step costs what it reads, so keys and values of a layer lie in one unbroken piece, which is read as a whole: room for ``ROOM`` positions more at a time, what
is not yet written masked. Room for all positions at once would leave a gap behind the written part of every row; processors fetch ahead along unbroken
addresses only, and take longer for half of a gapped cache than for the whole of it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentcomp.nn.sequence import Cache

ROOM = 32
"""Positions by which a cache grows: it is copied once for so many steps that read it, and half as many positions are read in vain."""


class Slot(NamedTuple):
    """Where one position looks up the others, in one layer, and leaves what it has itself.

    Attributes:
        room: ``(2, R, heads, d)``, for its key and value.
        keys: ``(R heads, d, C)``.
        values: ``(R heads, C, d)``.
        unseen: ``(C,)``, added to what its queries find: 0 up to the position itself, -inf behind it.
        position: its number.
    """

    room: Tensor
    keys: Tensor
    values: Tensor
    unseen: Tensor
    position: int


Step = Callable[[Tensor, Slot], Tensor]
"""One layer at one position: vectors ``(R, W)`` to vectors."""


class KeyValueCache(Cache):
    """Keys and values of the positions read so far, and the vectors that position 0 reads; the room behind them holds zeros.

    Args:
        memory: ``(2, R, heads, C, d)`` for each layer.
        first: ``(R, W)``.
        limit: the most positions that there will be.
        steps: the layers.
    """

    def __init__(self, memory: list[Float[Tensor, "2 R heads C d"]], first: Float[Tensor, "R W"], limit: int, steps: list[Step]) -> None:
        self.memory, self.first, self.limit, self.steps = memory, first, limit, steps
        self._lay_out()

    def through(self, h: Float[Tensor, "R W"], position: int) -> Float[Tensor, "R W"]:
        """The vectors of a position behind all layers."""
        for step, slot in zip(self.steps, self.slots(position), strict=True):
            h = step(h, slot)
        return h

    def _lay_out(self) -> None:
        """The views that every step needs, made once."""
        self._capacity = self.memory[0].shape[3]
        self._layers = [(layer, layer[0].flatten(0, 1).transpose(1, 2), layer[1].flatten(0, 1)) for layer in self.memory]
        self._unseen = self.memory[0].new_zeros(2 * self._capacity)
        self._unseen[self._capacity :] = -torch.inf

    def select(self, rows: Int[Tensor, " r"]) -> None:
        """These rows in place of all."""
        self.memory, self.first = [layer[:, rows] for layer in self.memory], self.first[rows]
        self._lay_out()

    def slots(self, position: int) -> Iterator[Slot]:
        """Those of a position in all layers."""
        if position >= self._capacity:
            self._grow(position + 1)
        unseen = self._unseen.narrow(0, self._capacity - 1 - position, self._capacity)
        return (Slot(layer[:, :, :, position], keys, values, unseen, position) for layer, keys, values in self._layers)

    def _grow(self, positions: int) -> None:
        """Layer by layer, so that no more than one of them is held twice."""
        self._layers = []
        for number, layer in enumerate(self.memory):
            self.memory[number] = layer.new_zeros(*layer.shape[:3], _capacity(positions, self.limit), layer.shape[4])
            self.memory[number][:, :, :, : self._capacity] = layer
        self._lay_out()


class PrefixedCache(KeyValueCache):
    """Keys and values of a condition's codes and of the codes chosen since; ``first`` is what the last of the condition's codes gives.

    Args:
        memory: as in :class:`KeyValueCache`.
        first: ``(R, W)``.
        limit: the most positions that there will be.
        steps: the layers.
        prefix: M, how many of the positions are the condition's.
    """

    def __init__(self, memory: list[Float[Tensor, "2 R heads C d"]], first: Float[Tensor, "R W"], limit: int, steps: list[Step], prefix: int) -> None:
        super().__init__(memory, first, limit, steps)
        self.prefix = prefix

    def tiled(self, times: int) -> "PrefixedCache":
        """All rows one after the other, and all over again."""
        memory = [layer.repeat(1, times, 1, 1, 1) for layer in self.memory]
        return PrefixedCache(memory, self.first.repeat(times, 1), self.limit, self.steps, self.prefix)


def _capacity(positions: int, limit: int) -> int:
    return max(positions, min(-(-positions // ROOM) * ROOM, limit))


def rooms(h: Float[Tensor, "R *T W"], layers: int, heads: int, positions: int, limit: int) -> list[Float[Tensor, "2 R heads C d"]]:
    """The memory of a cache for vectors h of so many positions, out of at most ``limit``."""
    return [h.new_zeros(2, len(h), heads, _capacity(positions, limit), h.shape[-1] // heads) for _ in range(layers)]


def looked_up(q: Float[Tensor, "R 1 heads d"], kv: Float[Tensor, "R 2 heads d"], slot: Slot) -> Float[Tensor, "R W"]:
    """What a position finds with its queries at the positions before it and at itself, whose key and value it leaves in the cache."""
    slot.room.copy_(kv.transpose(0, 1))
    q = q.reshape(-1, 1, q.shape[-1])
    weights = torch.baddbmm(slot.unseen, q, slot.keys, alpha=q.shape[-1] ** -0.5).softmax(-1)
    return torch.bmm(weights, slot.values).view(len(kv), -1)
