"""The cache of keys and values: what a position finds is attention over a growing piece of memory, whatever the room behind it."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from latentcomp.codes.autoregressive import AutoregressiveCodes
from latentcomp.nn import key_value
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.key_value import KeyValueCache, looked_up, rooms
from latentcomp.nn.modern import ModernTransformer, Width
from latentcomp.nn.transformer import CausalTransformer
from latentcomp.noise import Noise
from tests.codes.families import stirred

HEADS, WIDTH, SITES, K = 2, 8, 11, 5


def cache(rows: int, layers: int, limit: int) -> KeyValueCache:
    """An empty one."""
    first = torch.zeros(rows, WIDTH, dtype=torch.float64)
    return KeyValueCache(rooms(first, layers, HEADS, 1, limit), first, limit, [])


def parts(rows: int) -> torch.Tensor:
    """Queries, keys and values of one position, ``(R, 3, heads, d)``."""
    return torch.randn(rows, 3, HEADS, WIDTH // HEADS, dtype=torch.float64)


@pytest.mark.parametrize("room", [1, 2, 3, 32])
def test_what_is_looked_up_is_attention_over_all_positions_so_far(monkeypatch, room):
    """Two layers that share nothing but their cache; rows are repeated on the way, as a walk over all codes repeats them."""
    monkeypatch.setattr(key_value, "ROOM", room)
    torch.manual_seed(0)
    made, seen = cache(3, 2, 7), [[], []]
    for position in range(7):
        if position == 4:
            made.select(torch.arange(len(made.first)).repeat_interleave(2))
            seen = [[one.repeat_interleave(2, 0) for one in layer] for layer in seen]
        for slot, layer in zip(made.slots(position), seen, strict=True):
            layer.append(parts(6 if position >= 4 else 3))
            found = looked_up(layer[-1][:, :1], layer[-1][:, 1:], slot)
            q, k, v = torch.stack(layer, 3).unbind(1)  # (R, heads, positions, d)
            expected = scaled_dot_product_attention(q[:, :, -1:], k, v).flatten(1)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("limit", "capacities"), [(3, [3] * 3), (32, [32] * 32), (70, [32] * 32 + [64] * 32 + [70] * 6)])
def test_room_grows_in_pieces_that_are_read_as_a_whole(limit, capacities):
    made, found = cache(2, 1, limit), []
    for position in range(limit):
        slot = next(made.slots(position))
        slot.room.fill_(position + 1.0)
        found.append(made.memory[0].shape[3])
        assert made.memory[0].is_contiguous()
        assert (slot.unseen == 0).sum() == position + 1
        assert slot.unseen.isneginf().sum() == found[-1] - position - 1
    assert found == capacities
    assert torch.equal(made.memory[0][0, 1, 0, :, 0], torch.arange(limit) + 1.0)


def network(name: str):
    """A network of eleven sites, in float64, and a condition for two rows."""
    r = torch.tensor([[1, 4], [0, 3]])
    return {
        "gpt": lambda: (stirred(lambda: GPT((K,) * SITES, Size(K, SITES + 1, 16, 2, 2))), r),
        "modern": lambda: (stirred(lambda: ModernTransformer((K,) * SITES, Width(16, 2, 2), (K, 2))), r),
        "transformer": lambda: (stirred(lambda: CausalTransformer((K,) * SITES, width=16, layers=2, heads=2)), None),
    }[name]()


@pytest.mark.parametrize("room", [1, 4, 5])
@pytest.mark.parametrize("name", ["gpt", "modern", "transformer"])
@torch.no_grad()
def test_logits_and_draws_do_not_depend_on_how_the_cache_grows(monkeypatch, name, room):
    net, r = network(name)
    z = torch.randint(K, (2, SITES), generator=torch.Generator().manual_seed(0))
    draws = lambda: AutoregressiveCodes(net, r).sample(() if r is not None else (2,), Noise(1, 0, torch.arange(2)))  # noqa: E731
    expected, drawn = net(z, r), draws()
    monkeypatch.setattr(key_value, "ROOM", room)
    made = net.start(2, r)
    steps = [net.advance(made, site, z[:, site - 1] if site else None) for site in range(SITES)]
    assert (torch.stack(steps, 1) - expected).abs().max() < 1e-10
    for a in (3, 5, 8):
        resumed = net.resume(2, r, z[:, :a])
        for site in (a, a + 1):
            assert (net.advance(resumed, site, z[:, site - 1]) - expected[:, site]).abs().max() < 1e-10
    assert torch.equal(draws(), drawn)


def test_sampling_drops_nothing_out():
    """Else draws would be no function of their noise while a network learns."""
    torch.manual_seed(0)
    net = stirred(lambda: ModernTransformer((K,) * SITES, Width(16, 2, 2, dropout=0.5))).train()
    draw = lambda: AutoregressiveCodes(net).sample((4,), Noise(0, 0, torch.arange(4)))  # noqa: E731
    learning, _ = draw(), net.eval()
    assert torch.equal(learning, draw())


class Counted(TorchDispatchMode):
    """Counts the operations that are more than views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and func is not torch.ops.aten._unsafe_view.default  # the second half of a reshape
        return func(*args, **(kwargs or {}))


def operations(layers: int) -> int:
    """Those of one step of a GPT."""
    net, z = GPT((K,) * 40, Size(K, 41, 16, layers, 2)).eval(), torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        made = net.start(4, torch.zeros(4, 1, dtype=torch.long))
        list(made.slots(8))
        with Counted() as counted:
            net.advance(made, 9, z)
    return counted.count


def test_a_layer_of_a_step_takes_few_operations():
    """Two norms, four products, two sums, the GELU and its rows brought into place; query, key and value, too; two products and a softmax for the look-up."""
    assert operations(3) - operations(2) == 15
