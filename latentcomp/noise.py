"""Noise as a function of (seed, step, example, draw).

A generator that is advanced from call to call ties every random number to the order in which a process happened to ask for it: another batch split,
another number of processes or a resumed run then draws other numbers. Here each example owns a stream. Its key is a hash of the seed, the step and the
example's index in its set, and the n-th number that an example asks for in a step is a hash of that key and n. One process with one batch, the same
process with two micro-batches and several processes therefore make the same draws, on every device, without any state to save.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators"), a bijection of 64-bit words
whose output bits each depend on all input bits. It runs on whole tensors of 64-bit integers, whose products wrap around modulo 2^64.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_WORD = 2**64
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the increment of SplitMix64, far from any regular pattern of small integers
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def _signed(word: int) -> int:
    return (word % _WORD) - _WORD if word % _WORD >= _WORD // 2 else word % _WORD


def _mix_word(word: int) -> int:
    word %= _WORD
    word = ((word ^ (word >> 30)) * _FACTORS[0]) % _WORD
    word = ((word ^ (word >> 27)) * _FACTORS[1]) % _WORD
    return word ^ (word >> 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """The logical right shift: torch's own copies the sign bit of a signed word."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shifted(words, 30)) * _signed(_FACTORS[0])
    words = (words ^ _shifted(words, 27)) * _signed(_FACTORS[1])
    return words ^ _shifted(words, 31)


class Noise:
    """One stream of random numbers for each example of a batch.

    Args:
        seed: the seed of the run.
        step: the number of the update; the same step gives the same numbers.
        index: ``(B,)`` long, the position of each example in its set. Two rows with one index share their numbers.
    """

    def __init__(self, seed: int, step: int, index: Int[Tensor, " B"]) -> None:
        key = _mix_word(_mix_word(seed + _GOLDEN) + step)
        self._keys = _mix(index.long() * _signed(_GOLDEN) + _signed(key))
        self._drawn = 0

    @classmethod
    def fresh(cls, rows: int, device: torch.device | None = None) -> "Noise":
        """Streams keyed by torch's global generator on the host: what a bare call of ``sample()`` uses, so that ``torch.manual_seed`` holds."""
        return cls(int(torch.randint(2**62, ())), 0, torch.arange(rows, device=device))

    def uniform(self, sample_shape: Sequence[int], event_shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """Uniform numbers in the open interval (0, 1), of shape ``(*sample_shape, B, *event_shape)``."""
        count = math.prod(sample_shape) * math.prod(event_shape)
        counter = torch.arange(self._drawn, self._drawn + count, device=self._keys.device) * _signed(_GOLDEN)
        self._drawn += count
        counter = counter.view(*sample_shape, 1, *event_shape)
        keys = self._keys.view(-1, *(1 for _ in event_shape))
        bits = 52 if dtype == torch.float64 else 23  # one half is added below, so a mantissa must hold one bit more
        words = _shifted(_mix(keys ^ _mix(counter)), 64 - bits)
        return (words.to(dtype) + 0.5) * 2.0**-bits

    def gumbel(self, sample_shape: Sequence[int], event_shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "..."]:
        """Standard Gumbel numbers, ``-log(-log u)``, of shape ``(*sample_shape, B, *event_shape)``."""
        return -(-self.uniform(sample_shape, event_shape, dtype).log()).log()


def permutation(n: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The order of ``n`` examples in an epoch: a function of (seed, epoch) alone."""
    # Other streams than those of the updates: else the examples that come first in epoch t would be those that draw the smallest numbers at step t.
    return Noise(~seed, epoch, torch.arange(n)).uniform((), (), torch.float64).argsort(stable=True)


def coin(probability: float, seed: int, step: int) -> bool:
    """True with the given probability, as a function of (seed, step): the same on every process."""
    return _mix_word(_mix_word(_mix_word(seed + 1) + step)) < probability * _WORD
