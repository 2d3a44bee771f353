"""Which sequences repeat an earlier one, against a set."""

import torch

from latentcomp.codes.support import repeated


def test_a_code_is_repeated_where_a_set_has_it_already():
    z = torch.randint(2, (7, 10, 3), generator=torch.Generator().manual_seed(0))
    for row, marks in zip(z.tolist(), repeated(z).tolist(), strict=True):
        seen = set()
        for code, mark in zip(map(tuple, row), marks, strict=True):
            assert mark == (code in seen)
            seen.add(code)
