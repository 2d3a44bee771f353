"""The fast lookup against argmin on the whole table of distances, and against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentcomp.codebook import lookup as module
from latentcomp.codebook.lookup import lookup, nearest_code

CASES = settings(max_examples=60, deadline=None, derandomize=True)


def whole_table(h, vectors, exists=None):
    """argmin in float64 of all squared differences, summed one by one."""
    distances = (h.double().unsqueeze(-2) - vectors.double()).square().sum(-1)
    if exists is not None:
        distances = distances.masked_fill(~exists, math.inf)
    return distances.argmin(-1)


@CASES
@given(leading=st.lists(st.integers(0, 5), max_size=3), k=st.integers(1, 400), d=st.integers(1, 6), rows=st.integers(1, 9), seed=st.integers(0, 999))
def test_it_is_the_argmin_whatever_the_chunks(leading, k, d, rows, seed):
    torch.manual_seed(seed)
    h, vectors = torch.randn(*leading, d, dtype=torch.float64), torch.randn(k, d, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", rows)
        patch.setattr(module, "CACHED", 0)
        assert torch.equal(nearest_code(h, vectors), whole_table(h, vectors))


@CASES
@given(k=st.integers(1, 300), seed=st.integers(0, 999))
def test_of_equals_it_takes_the_first(k, seed):
    """Points of a small grid of whole numbers: many ties, and no rounding in |e|^2 / 2 - h.e, so they stay ties."""
    generator = torch.Generator().manual_seed(seed)
    h, vectors = (torch.randint(-1, 2, (n, 2), generator=generator).float() for n in (40, k))
    assert torch.equal(nearest_code(h, vectors), whole_table(h, vectors))


def test_what_is_not_a_number_is_found_as_argmin_finds_it():
    vectors = torch.randn(300, 2)
    vectors[217, 1] = math.nan
    assert nearest_code(torch.zeros(4, 2), vectors).tolist() == [217] * 4


@CASES
@given(cardinalities=st.lists(st.integers(1, 9), min_size=1, max_size=4), rows=st.integers(1, 9), seed=st.integers(0, 999))
def test_each_site_chooses_among_its_own_codes(cardinalities, rows, seed):
    torch.manual_seed(seed)
    h, vectors = torch.randn(5, len(cardinalities), 3), torch.randn(9, 3)
    exists = torch.arange(9) < torch.tensor(cardinalities).unsqueeze(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", rows)
        patch.setattr(module, "CACHED", 0)
        z = nearest_code(h, vectors, exists)
    assert torch.equal(z, whole_table(h, vectors, exists))
    assert (z < torch.tensor(cardinalities)).all()


def test_half_precision_is_computed_in_float32():
    vectors = torch.tensor([[10.0], [10.1], [10.2]])
    with torch.autocast("cpu", torch.bfloat16):
        assert nearest_code(torch.tensor([[10.06], [10.16]]), vectors).tolist() == [1, 2]
    assert nearest_code(torch.tensor([[10.0]], dtype=torch.bfloat16), vectors).tolist() == [0]
    assert nearest_code(torch.tensor([[10.16]]), vectors.double()).tolist() == [2]


@pytest.mark.usefixtures("unchecked")  # else the annotations refuse it first, with less to say
def test_vectors_of_another_dimension_are_refused():
    with pytest.raises(ValueError, match=r"D=3 have no nearest code among codes of D=2: build encoder and codebook with one width"):
        nearest_code(torch.zeros(4, 3), torch.zeros(5, 2))


def test_it_holds_no_table_of_all_distances(monkeypatch):
    """Of 5,000 x 900 distances no more exist at a time than the constant says."""
    made, addmm = [], torch.addmm
    monkeypatch.setattr(module, "CACHED", 512 * 1024)
    monkeypatch.setattr(torch, "addmm", lambda *args, out, **kwargs: made.append(out.untyped_storage().nbytes()) or addmm(*args, out=out, **kwargs))
    nearest_code(torch.randn(5000, 2), torch.randn(900, 2))
    assert len(made) >= 8
    assert max(made) <= 4 * 582 * 1024


def test_lookup_and_its_gradient():
    vectors, z = torch.randn(4, 3).double().requires_grad_(), torch.tensor([[0, 2], [2, 2]])
    e = lookup(z, vectors)
    assert torch.equal(e, torch.stack([torch.stack([vectors[k] for k in row]) for row in z]))
    upstream = torch.randn(2, 2, 3).double()
    e.backward(upstream)
    wanted = torch.zeros(4, 3).double()
    for row in range(2):
        for site in range(2):
            wanted[z[row, site]] += upstream[row, site]
    torch.testing.assert_close(vectors.grad, wanted)


@pytest.mark.usefixtures("unchecked")  # else the annotations refuse it first, with less to say
@pytest.mark.parametrize("z", [torch.tensor([0.0]), torch.tensor([True])])
def test_codes_that_are_no_whole_numbers_are_refused(z):
    with pytest.raises(TypeError, match="codes are whole numbers"):
        lookup(z, torch.zeros(3, 2))
