"""Every geometry: e(z) and nearest(h) against enumeration; FSQ, LFQ, SimVQ, spherical and residual codes against vector-quantize-pytorch's."""

import math
from collections.abc import Callable

import pytest
import torch
import vector_quantize_pytorch as vqp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentcomp import objectives
from latentcomp.codebook.codebook import Codebook
from latentcomp.codebook.ema_codebook import EMACodebook
from latentcomp.codebook.fsq import FSQ
from latentcomp.codebook.geometry import Geometry
from latentcomp.codebook.lfq import LFQ
from latentcomp.codebook.residual_vq import ResidualVQ
from latentcomp.codebook.sim_vq import SimVQ
from latentcomp.codebook.space import Sphere
from latentcomp.codebook.start import SmallUniform

TABLES: dict[str, Callable[[], Geometry]] = {
    "codebook": lambda: Codebook(20, 3),
    "small uniform": lambda: Codebook(20, 3, start=SmallUniform()),
    "sphere": lambda: Codebook(20, 3, space=Sphere()),
    "ema sphere": lambda: EMACodebook(20, 3, space=Sphere()),
    "fsq": lambda: FSQ((3, 4, 5)),
    "lfq": lambda: LFQ(16),
    "sim_vq": lambda: SimVQ(20, 3),
}
each = pytest.mark.parametrize("name", TABLES)


def made(name: str) -> Geometry:
    torch.manual_seed(1)
    return TABLES[name]().double()


def points(*shape: int, scale: float = 1.5) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@each
def test_codes_and_vectors_belong_together(name):
    codebook = made(name)
    every = torch.arange(codebook.codes)
    assert codebook.vectors.shape == (codebook.codes, codebook.width)
    torch.testing.assert_close(codebook(every), codebook.vectors)
    assert len(codebook.vectors.detach().unique(dim=0)) == codebook.codes
    torch.testing.assert_close(codebook(every.view(1, -1, 1)), codebook.vectors.view(1, codebook.codes, 1, -1))
    one_hot = torch.nn.functional.one_hot(every, codebook.codes).double()
    torch.testing.assert_close(codebook.mix(one_hot), codebook.vectors)
    with pytest.raises(ValueError, match=f"codes must lie in 0..{codebook.codes - 1}"):
        codebook(torch.tensor([codebook.codes]))


@each
def test_the_nearest_code_is_the_nearest_of_all_vectors(name):
    codebook = made(name)
    h = points(200, codebook.width)
    distances = (codebook.project(h).unsqueeze(-2) - codebook.vectors).square().sum(-1)
    z = codebook.nearest(h)
    assert torch.equal(z, distances.argmin(-1))
    assert z.unique().numel() > codebook.codes / 2 or name == "small uniform", "the test saw many cells"
    assert not z.requires_grad


@each
def test_sites_of_fewer_codes_choose_among_theirs(name):
    codebook = made(name)
    h, cardinalities = points(30, 2, codebook.width), (3, codebook.codes)
    z = codebook.nearest(h, cardinalities)
    distances = (codebook.project(h).unsqueeze(-2) - codebook.vectors).square().sum(-1)
    assert torch.equal(z[:, 0], distances[:, 0, :3].argmin(-1))
    assert torch.equal(z[:, 1], distances[:, 1].argmin(-1))


@pytest.mark.usefixtures("unchecked")  # else the annotations refuse it first, with less to say
@each
def test_an_encoder_of_another_width_is_refused(name):
    codebook = made(name)
    with pytest.raises(ValueError, match=f"width|D={codebook.width}"):
        codebook.nearest(torch.zeros(4, codebook.width + 1).double())


@each
def test_soft_assignments_are_the_softmax_of_distances(name):
    codebook = made(name)
    h = codebook.project(points(4, 3, codebook.width, scale=0.4))
    entropies, mean = codebook.soft(h, 0.7)
    q = (-(h.flatten(0, 1).unsqueeze(-2) - codebook.vectors).square().sum(-1) / 0.7).softmax(-1)
    torch.testing.assert_close(entropies, torch.distributions.Categorical(q).entropy())
    torch.testing.assert_close(mean, q.mean(0))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(levels=st.lists(st.integers(3, 9), min_size=1, max_size=4), scale=st.floats(0.1, 10), seed=st.integers(0, 999))
def test_fsq_is_that_of_the_independent_implementation(levels, scale, seed):
    torch.manual_seed(seed)
    ours, theirs = FSQ(levels), vqp.FSQ(list(levels))
    h = (scale * torch.randn(2, 7, len(levels))).requires_grad_()
    out, z = theirs(h)
    projected = ours.project(h)
    mine = objectives.straight_through(projected, ours(ours.nearest(h)))
    assert torch.equal(ours.nearest(h), z.long())
    torch.testing.assert_close(mine, out)
    upstream = torch.randn_like(out)
    torch.testing.assert_close(torch.autograd.grad(mine, h, upstream)[0], torch.autograd.grad(out, h, upstream)[0])
    torch.testing.assert_close(ours.vectors, theirs.implicit_codebook)


def test_fsq_reaches_every_code_and_leaves_zero_in_the_middle():
    fsq = FSQ((3, 4))
    h = torch.stack(torch.meshgrid(torch.linspace(-4, 4, 99), torch.linspace(-4, 4, 99), indexing="ij"), -1)
    assert fsq.nearest(h).unique().numel() == 12
    torch.testing.assert_close(fsq.project(torch.zeros(2)), torch.zeros(2))
    assert fsq.project(torch.tensor([0.5, 0.5], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("codes", [2, 8, 64])
def test_lfq_is_that_of_the_independent_implementation(codes):
    """Codes, values, entropies and the gradient of the entropy term; theirs clamps probabilities at 1e-5 in the logarithm, so h stays near the middle."""
    torch.manual_seed(0)
    ours = LFQ(codes)
    theirs = vqp.LFQ(codebook_size=codes, dim=ours.width, entropy_loss_weight=1.0, diversity_gamma=0.6).train()
    h = (0.05 * torch.randn(2, 9, ours.width)).requires_grad_()
    (out, z, loss), parts = theirs(h, inv_temperature=2.0, return_loss_breakdown=True)
    assert torch.equal(ours.nearest(h), z)
    assert torch.equal(ours(z), out)
    assert torch.equal(ours.vectors, theirs.codebook)
    entropies, mean = ours.soft(h, 0.5)
    torch.testing.assert_close(entropies.mean(), parts.per_sample_entropy)
    mine = objectives.entropy_loss(entropies, mean, 0.6)
    torch.testing.assert_close(mine, loss)
    torch.testing.assert_close(torch.autograd.grad(mine, h)[0], torch.autograd.grad(loss, h)[0])


def test_lfq_at_many_codes_holds_no_table_of_all_of_them():
    """2^16 codes and 500 vectors would be 260 MB in float64; products of halves are 2 MB. The mean still sums to one, and the entropies stay finite."""
    entropies, mean = LFQ(2**16).double().soft(points(5, 100, 16), 0.01)
    torch.testing.assert_close(mean.sum(), torch.tensor(1.0).double())
    assert entropies.isfinite().all()


def test_sim_vq_is_that_of_the_independent_implementation():
    torch.manual_seed(0)
    ours, theirs = SimVQ(50, 4), vqp.SimVQ(dim=4, codebook_size=50)
    theirs.frozen_codebook.copy_(ours.fixed)
    theirs.code_transform.weight.data.copy_(ours.linear.weight)
    h = torch.randn(2, 9, 4).requires_grad_()
    out, z, loss = theirs(h)
    assert torch.equal(ours.nearest(h), z)
    target, e = ours.assigned(h, z)
    mine = (objectives.codebook_loss(e, target) + 0.25 * objectives.commitment_loss(e, target)) / (9 * 4)
    torch.testing.assert_close(mine, loss)
    passed, upstream = objectives.rotation_trick(h, ours(z)), torch.randn(2, 9, 4)
    torch.testing.assert_close(passed, out)
    for wanted, got in zip(
        torch.autograd.grad([out, loss], [h, theirs.code_transform.weight], [upstream, torch.ones(())]),
        torch.autograd.grad([passed, mine], [h, ours.linear.weight], [upstream, torch.ones(())]),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert [name for name, _ in ours.named_parameters()] == ["linear.weight"], "the vectors themselves stay"


def test_spherical_codes_are_those_of_the_independent_implementation():
    """The nearest on the sphere is the one of the largest cosine; three steps of running means give the same vectors."""
    torch.manual_seed(0)
    ours = EMACodebook(12, 4, decay=0.8, space=Sphere())
    theirs = vqp.VectorQuantize(dim=4, codebook_size=12, use_cosine_sim=True, decay=0.8, rotation_trick=False).train()
    book = theirs._codebook
    book.embed.copy_(ours.weight.unsqueeze(0))
    book.embed_avg.copy_(ours.weight.unsqueeze(0))
    for step in range(3):
        h = torch.randn(5, 7, 4)
        out, z, loss = theirs(h)
        projected = ours.project(h)
        assert torch.equal(ours.nearest(h), z)
        torch.testing.assert_close(ours(z), out)
        torch.testing.assert_close(objectives.commitment_loss(ours(z), projected) / (7 * 4), loss)
        ours.update(ours.statistics(projected, z, torch.arange(5)), 0, step)
        torch.testing.assert_close(ours.counts, book.cluster_size[0])
        torch.testing.assert_close(ours.weight, book.embed[0], rtol=1e-3, atol=1e-4)  # theirs smooths the counts by 1e-5 each
        ours.weight.copy_(book.embed[0])
    torch.testing.assert_close(ours.weight.norm(dim=-1), torch.ones(12))


def test_a_gradient_on_the_sphere_passes_the_normalisation():
    codebook, z = made("sphere"), torch.tensor([3, 5])
    target = points(2, 3)
    loss = (codebook(z) - target).square().sum()
    (mine,) = torch.autograd.grad(loss, codebook.weight)
    for k, t in zip(z, target, strict=True):
        w = codebook.weight[k].detach()
        n, u = w.norm(), w / w.norm()
        torch.testing.assert_close(mine[k], (2 * (u - t) - u * (u @ (2 * (u - t)))) / n)
    assert mine[[0, 1, 2, 4]].abs().sum() == 0


def residual(shared: bool = False, kind: type[Codebook] = Codebook, **settings) -> ResidualVQ:
    torch.manual_seed(2)
    books = [kind(10, 3, **settings) for _ in range(3)]
    return ResidualVQ([books[0]] * 3 if shared else books).double()


@pytest.mark.parametrize("shared", [False, True])
def test_residual_codes_are_greedy_and_their_vectors_add_up(shared):
    codebook, h = residual(shared), points(5, 2, 3)
    z, books = codebook.nearest(h), codebook.books
    assert z.shape == (5, 6)
    targets, vectors = codebook.assigned(h, z)
    for b in range(5):
        for n in range(2):
            left, total = h[b, n], torch.zeros(3).double()
            for q in range(3):
                k = int(z[b, 3 * n + q])
                assert k == int((books[q].weight - left).square().sum(-1).argmin())
                torch.testing.assert_close(targets[b, 3 * n + q], left)
                torch.testing.assert_close(vectors[b, 3 * n + q], books[q].weight[k])
                left, total = left - books[q].weight[k], total + books[q].weight[k]
            torch.testing.assert_close(codebook(z)[b, n], total)
    one_hot = torch.nn.functional.one_hot(z, 10).double()
    torch.testing.assert_close(codebook.mix(one_hot), codebook(z))
    limited = codebook.nearest(h, (2, 10, 10) * 2).view(5, 2, 3)
    assert (limited[..., 0] < 2).all()
    assert (limited[..., 1:] >= 2).any()


def test_residual_codes_and_losses_are_those_of_the_independent_implementation():
    ours = residual().float()
    theirs = vqp.ResidualVQ(
        dim=3, num_quantizers=3, codebook_size=10, learnable_codebook=True, ema_update=False, rotation_trick=False, commitment_weight=1.0
    ).train()
    for layer, book in zip(theirs.layers, ours.books, strict=True):
        layer._codebook.embed.data.copy_(book.weight.unsqueeze(0))
    h = points(5, 2, 3).float().requires_grad_()
    out, z, losses = theirs(h)
    assert torch.equal(ours.nearest(h).view(5, 2, 3), z)
    torch.testing.assert_close(ours(ours.nearest(h)), out)
    target, e = ours.assigned(h, z.flatten(1))
    mine = (objectives.codebook_loss(e, target) + objectives.commitment_loss(e, target)) / (2 * 3)
    torch.testing.assert_close(mine / 2, losses.sum())  # in value theirs is one squared distance, which pulls both ends
    theirs_at = torch.autograd.grad(losses.sum(), [h, *(layer._codebook.embed for layer in theirs.layers)])
    ours_at = torch.autograd.grad(mine, [h, *(book.weight for book in ours.books)])
    for got, wanted in zip(ours_at, theirs_at, strict=True):
        torch.testing.assert_close(got, wanted.view_as(got))


def test_shared_and_own_running_means_learn_from_their_depths():
    for shared in (False, True):
        codebook, h = residual(shared, EMACodebook, decay=0.9), points(5, 2, 3)
        z = codebook.nearest(h)
        targets = codebook.assigned(h, z)[0].view(5, 2, 3, 3)
        before = codebook.books[0].weight.clone()
        codebook.update(codebook.statistics(h, z, torch.arange(5)), 0, 0)
        depths = range(3) if shared else range(1)
        for k in range(10):
            rows = [targets[b, n, q] for b in range(5) for n in range(2) for q in depths if z.view(5, 2, 3)[b, n, q] == k]
            wanted = (0.9 * before[k] + 0.1 * sum(rows, torch.zeros(3).double())) / (0.9 + 0.1 * len(rows))
            torch.testing.assert_close(codebook.books[0].weight[k], wanted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FSQ((8, 2)), r"three or more levels along each dimension, got \[8, 2\].*LFQ"),
        (lambda: FSQ((8, 1)), "three or more levels"),
        (lambda: FSQ(()), "three or more levels"),
        (lambda: LFQ(12), "power of two codes.*got K=12: take 8 or 16"),
        (lambda: LFQ(1), "got K=1: take 2 or 4"),
        (lambda: LFQ(0), "got K=0: take 2 or 4"),
        (lambda: Codebook(0, 3), "K >= 1 codes.*got K=0"),
        (lambda: Codebook(4, 3, -1.0), "restart=-1.0"),
        (lambda: Codebook(4, 3, 1.0), "a share of the even use; got K=4, D=3, restart=1.0"),
        (lambda: SimVQ(4, 0), "D=0"),
        (lambda: ResidualVQ([]), "one or more codebooks"),
        (lambda: ResidualVQ([Codebook(4, 3), Codebook(5, 3)]), r"agree on \(K, D\), got \[\(4, 3\), \(5, 3\)\]"),
        (lambda: ResidualVQ([Codebook(4, 3, space=Sphere())]), "lies on no sphere"),
    ],
)
def test_what_cannot_be_built_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_residual_codes_have_no_one_table_and_need_whole_groups():
    codebook = residual()
    with pytest.raises(TypeError, match="a sum of 3 vectors has no single table"):
        codebook.soft(points(2, 2, 3), 1.0)
    with pytest.raises(ValueError, match="4 sites do not hold 3 codes for each vector"):
        codebook(torch.zeros(2, 4, dtype=torch.long))


def test_vectors_off_the_sphere_of_zero_length_stay_finite():
    codebook = made("sphere")
    assert codebook.nearest(torch.zeros(2, 3).double()).tolist() == [codebook.nearest(torch.zeros(3).double()).item()] * 2
    assert math.isfinite(float(codebook.project(torch.zeros(3).double()).sum()))
