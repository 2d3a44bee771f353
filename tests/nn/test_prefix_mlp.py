"""The perceptron over prefixes equals the dense one that reads one-hot prefixes."""

import pytest
import torch

from tests.codes.families import H, contexts, network

CARDINALITIES = (2, 3, 4)


@pytest.mark.parametrize("width", [H, 0])
def test_partial_sums_equal_the_dense_network_on_one_hot_prefixes(width):
    """Hu et al. (2023): the input is the prefix as N K numbers, and a one-hot first layer, written out here with loops."""
    made = network("prefix_mlp", CARDINALITIES, width)
    context = contexts(5) if width else None
    z = torch.stack([torch.randint(k, (5,), generator=torch.Generator().manual_seed(k)) for k in CARDINALITIES], -1)
    dense = made.rows.flatten(0, 1)  # (N K, width)
    for row in range(5):
        for site in range(3):
            prefix = torch.zeros(3 * 4, dtype=torch.float64)
            for before in range(site):
                prefix[before * 4 + z[row, before]] = 1
            hidden = made.prefix(prefix @ dense + made.bias)
            if context is not None:
                hidden = hidden + made.context.weight @ context[row]
            expected = made.joined(hidden) @ made.head[site] + made.head_bias[site]
            k = CARDINALITIES[site]
            torch.testing.assert_close(made(z, context)[row, site, :k], expected[:k])
