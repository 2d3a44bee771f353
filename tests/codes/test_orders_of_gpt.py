"""The published transformer in every order of sites, on grids whose codes can all be written down: what it scores, draws, cuts, completes."""

import math

import pytest
import torch

from latentcomp.codes.distribution import inverse_cdf
from latentcomp.conditions import Conditioning, Labels, Shifted
from latentcomp.enumeration import all_codes
from latentcomp.nn.gpt import GPT, Size
from latentcomp.nn.orders import ORDERS
from latentcomp.noise import Noise
from latentcomp.priors import Autoregressive, InOrder
from latentcomp.sampling.drawing import Drawing
from latentcomp.sampling.patchwork import patchwork
from latentcomp.sampling.window import Everywhere
from tests.codes.families import stirred
from tests.frequencies import assert_frequencies, positions

K, N = 3, 4  # 2 x 2 sites: 81 grids
Z = all_codes((K,) * N)
LABELS = torch.tensor([0, 1])
orders = pytest.mark.parametrize("name", ORDERS)


def prior(name: str) -> tuple[InOrder, torch.Tensor]:
    """p(z | label) in an order, a start code standing for no label."""
    order = ORDERS[name](2, 2)
    network = stirred(lambda: GPT((K,) * N, Size(K + 3, N, 8, 1, 2), start=K + 2)).eval()
    return InOrder(Autoregressive(network, Conditioning(Shifted(Labels(2), K))), order), order


def by_hand(made: InOrder, order: torch.Tensor, label: int, drawing: Drawing) -> torch.Tensor:
    """log p of all grids: their codes written down one after the other, each from the logits of a whole pass over what stands there."""
    network, total = made.prior.network, torch.zeros(len(Z), dtype=torch.float64)
    written = torch.zeros(len(Z), N, dtype=torch.long)
    for step, site in enumerate(order.tolist()):
        given, none = (network.logits(written, torch.full((len(Z), 1), code))[:, step, :K] for code in (K + label, K + 2))
        p = ((none + drawing.guidance * (given - none)) / drawing.temperature).softmax(-1)
        kept = p >= p.sort(descending=True).values[:, (drawing.top_k or K) - 1 :][:, :1]
        p = p * kept / (p * kept).sum(-1, keepdim=True)
        total += p.gather(1, Z[:, site, None]).squeeze(1).log()
        written[:, step] = Z[:, site]
    return total


@orders
@pytest.mark.parametrize("drawing", [Drawing(), Drawing(0.7, 2), Drawing(1.3, None, None, 2.0)], ids=str)
@torch.no_grad()
def test_probabilities_add_up_to_one_and_are_those_of_the_codes_in_that_order(name, drawing):
    made, order = prior(name)
    q = drawing(made, LABELS)
    log_p = q.log_prob(Z.unsqueeze(1).expand(-1, 2, -1))
    torch.testing.assert_close(log_p.exp().sum(0), torch.ones(2, dtype=torch.float64))
    for label in LABELS.tolist():
        torch.testing.assert_close(log_p[:, label], by_hand(made, order, label, drawing))
    torch.testing.assert_close(q.table(), log_p.T)


@orders
@torch.no_grad()
def test_samples_are_drawn_in_that_order_with_and_without_a_cache(name):
    made, order = prior(name)
    u = Noise(3, 0, torch.arange(2)).uniform((), (N,))
    written = torch.zeros(2, N, dtype=torch.long)
    for step in range(N):
        logits = made.prior.network.logits(written, LABELS[:, None] + K)[:, step, :K]
        written[:, step] = inverse_cdf(logits.log_softmax(-1), u[:, step].double())
    z = torch.zeros_like(written)
    z[:, order] = written
    assert torch.equal(made(LABELS).sample((), Noise(3, 0, torch.arange(2))), z)


@orders
def test_half_a_grid_is_completed_by_the_conditional_where_it_is_written_first(name):
    """Error rate: ``frequencies.LEVEL``, for each of the orders."""
    made, order = prior(name)
    q, label, shown = made(LABELS[1:]), 1, order[: N // 2]
    z, hidden = torch.zeros(2000, N, dtype=torch.long), torch.ones(2000, N, dtype=torch.bool)
    z[:, shown], hidden[:, shown] = torch.tensor([2, 1]), False
    drawn = q.completed(z, hidden, Noise(0, 0, torch.arange(2000)))
    assert torch.equal(drawn[:, shown], z[:, shown])
    with torch.no_grad():
        p = by_hand(made, order, label, Drawing()).exp() * (Z[:, shown] == torch.tensor([2, 1])).all(-1)
    assert_frequencies(positions(drawn, (K,) * N), p / p.sum())
    given = torch.tensor([[2, 1]])
    noise = lambda: Noise(5, 0, torch.arange(1))  # noqa: E731
    assert torch.equal(q.completed(z[:1], hidden[:1], noise()), q.continued(given, noise())), "as what continues the beginning of the sequence"


@orders
@torch.no_grad()
def test_any_part_is_completed_given_what_is_written_before_it(name):
    """Error rate as above: hidden codes follow the product of their conditionals given those that stand before them by then."""
    made, _ = prior(name)
    q, shown = made(LABELS[:1]), torch.tensor([1, 2])
    z, hidden = torch.zeros(2000, N, dtype=torch.long), torch.ones(2000, N, dtype=torch.bool)
    z[:, shown], hidden[:, shown] = torch.tensor([0, 2]), False
    drawn = q.completed(z, hidden, Noise(1, 0, torch.arange(2000)))
    steps = q.log_prob_steps(Z.unsqueeze(1)).squeeze(1)
    p = steps[:, [0, 3]].sum(-1).exp() * (Z[:, shown] == torch.tensor([0, 2])).all(-1)
    assert math.isclose(float(p.sum()), 1.0)
    assert_frequencies(positions(drawn, (K,) * N), p)


@orders
@torch.no_grad()
def test_windows_are_completed_in_that_order(name):
    made, order = prior(name)
    r, noise = made.prior.condition(LABELS), lambda: Noise(2, 0, torch.arange(2))
    drawing = Drawing(0.8)
    one = patchwork(lambda r: drawing.given(made, r), (2, 2), (2, 2), 2, Everywhere(r), noise=noise())
    assert torch.equal(one.flatten(1), drawing(made, LABELS).sample((), noise()))
    z = patchwork(lambda r: drawing.given(made, r), (3, 5), (2, 2), 2, Everywhere(r), stride=2, noise=noise())
    stream, expected, there = noise(), torch.zeros(2, 3, 5, dtype=torch.long), torch.zeros(3, 5, dtype=torch.bool)
    for top in (0, 1):
        for left in (0, 2, 3):
            u, written = stream.uniform((), (N,)), torch.zeros(2, N, dtype=torch.long)
            for step, site in enumerate(order.tolist()):
                i, j = top + site // 2, left + site % 2
                log_p = (made.prior.network.logits(written, r)[:, step, :K] / 0.8).log_softmax(-1)
                code = expected[:, i, j] if there[i, j] else inverse_cdf(log_p, u[:, step].double())
                written[:, step] = expected[:, i, j] = code
                there[i, j] = True
    assert torch.equal(z, expected)
