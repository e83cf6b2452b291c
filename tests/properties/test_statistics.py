"""The statistics against sums in double precision, for tensors of any shape, dtype and layout."""

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from torch import Tensor

from gradscope import stats

HALF = (torch.float16, torch.bfloat16)
REAL = (*HALF, torch.float32, torch.float64)
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([stats.ROW - 1, stats.ROW, stats.ROW + 1, stats.DIRECT, stats.DIRECT + 1, 3 * stats.DIRECT + 7]),
)
SHAPES = st.one_of(
    st.lists(st.integers(0, 9), max_size=5).map(tuple),
    SIZES.map(lambda size: (size,)),
    st.tuples(st.integers(1, 5), SIZES),
)
LAYOUTS = ("contiguous", "transposed", "every other", "broadcast", "channels last", "behind others", "sparse")


@st.composite
def tensors(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (*REAL, torch.complex64), equal: bool = False) -> Tensor:
    """Any tensor whose norm is finite in single precision; `equal` if all elements are the same."""
    shape, dtype, layout = draw(SHAPES), draw(st.sampled_from(dtypes)), draw(st.sampled_from(LAYOUTS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    whole = torch.randn(shape, generator=generator, dtype=wide) * scale
    if equal:
        whole = torch.full_like(whole, scale * draw(st.floats(0.5, 1)))
    return laid_out(whole.to(dtype), layout)


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same elements in another order in memory, or, where `layout` says so, other ones."""
    if layout == "transposed":
        return x.mT if x.dim() > 1 else x
    if layout == "every other":
        return x[..., ::2] if x.dim() else x
    if layout == "broadcast":
        return x.expand(3, *x.shape)
    if layout == "channels last":
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
    if layout == "behind others":
        return torch.cat((torch.full((3,), 99, dtype=x.dtype), x.flatten()))[3:].view(x.shape)
    if layout == "sparse" and x.dim() and x.numel():
        # Each element in two halves at the same place: it is their sum that counts.
        places = (torch.ones(x.shape) != 0).nonzero().T.repeat(1, 2)
        halves = (x / 2).flatten().repeat(2)
        return torch.sparse_coo_tensor(places, halves, x.shape, check_invariants=True)
    return x


def exact_norm(x: Tensor) -> float:
    x = x.to_dense() if x.is_sparse else x
    return math.sqrt(x.to(torch.complex128 if x.is_complex() else torch.float64).abs().square().sum().item())


@given(st.lists(tensors(), max_size=6), st.randoms(use_true_random=False))
def test_norms_are_those_of_brute_force_in_any_company(several: list[Tensor], random: Any) -> None:
    norms = stats.l2_norms(several)
    assert (norms.dtype, norms.shape) == (torch.float32, (len(several),))
    # Halves that are summed at the same place are rounded to their own dtype.
    loose = any(x.is_sparse and x.dtype in HALF for x in several)
    assert norms.tolist() == pytest.approx([exact_norm(x) for x in several], rel=1e-2 if loose else 1e-6, abs=1e-30)
    order = random.sample(range(len(several)), len(several))
    assert stats.l2_norms([several[i] for i in order]).tolist() == norms[order].tolist()


@given(tensors(equal=True).filter(lambda x: not x.is_sparse))
def test_what_rounding_adds_up_to_has_a_bound(x: Tensor) -> None:
    assert stats.l2_norms([x]).item() == pytest.approx(exact_norm(x), rel=1e-5)


@given(st.lists(tensors((torch.float32,)).filter(lambda x: not x.is_sparse), min_size=1, max_size=6))
def test_rough_norms_are_near(several: list[Tensor]) -> None:
    assert [n.item() for n in stats.rough_norms(several)] == pytest.approx([exact_norm(x) for x in several], rel=2e-5)


@given(st.lists(tensors(REAL).filter(lambda x: not x.is_sparse), min_size=1, max_size=3), st.data())
def test_one_number_that_is_none_spoils_its_own_norm_alone(several: list[Tensor], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(several) - 1))
    spoiled = several[which].clone(memory_format=torch.contiguous_format)
    if not spoiled.numel():
        return
    odd = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    spoiled.view(-1)[data.draw(st.integers(0, spoiled.numel() - 1))] = odd
    norms = stats.l2_norms([*several[:which], spoiled, *several[which + 1 :]])
    assert math.isnan(norms[which]) if math.isnan(odd) else norms[which] == math.inf
    assert torch.isfinite(norms).sum() == len(several) - 1


@given(st.integers(0, 7), SIZES, st.sampled_from(REAL), st.integers(0, 2**32), st.sampled_from([0.0, 1.0, -30.0]))
def test_rows_are_judged_each_by_itself(n: int, m: int, dtype: torch.dtype, seed: int, mean: float) -> None:
    x = (torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean).to(dtype)
    exact = x.double()
    totals, squares = stats.moments(x)
    assert totals.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    size = exact.abs().sum(dim=1).tolist()
    for total, truth, scale in zip(totals.tolist(), exact.sum(dim=1).tolist(), size, strict=True):
        assert total == pytest.approx(truth, abs=1e-6 * scale)
    distances = (exact - exact.sum(dim=1, keepdim=True) / max(m, 1)).square().sum(dim=1).tolist()
    assert squares.tolist() == pytest.approx(distances, rel=1e-4, abs=1e-9)
    if m:
        assert stats.row_norms(x).tolist() == pytest.approx([exact_norm(row) for row in x], rel=1e-5)
        assert stats.positive_counts(x.clamp_min(0)).tolist() == (exact > 0).sum(dim=1).tolist()


@given(
    st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=60),
    st.sampled_from([(-1.0, 1.0), (0.0, 1.0), (0.0, 6.0)]),
    st.sampled_from([0.01, 0.1, 0.25]),
)
def test_saturated_is_what_is_near_a_limit(outputs: list[float], limits: tuple[float, float], margin: float) -> None:
    low, high = limits
    edge = margin * (high - low)
    distances = [min(y - low, high - y) - edge for y in outputs]
    count = stats.saturated_counts(torch.tensor([outputs]), limits, margin).item()
    certain, possible = (sum(d <= slack for d in distances) for slack in (-1e-5, 1e-5))
    assert certain <= count <= possible


@given(st.lists(st.integers(1, 5), max_size=5), st.integers(-5, 4), st.sampled_from(REAL), st.integers(0, 2**32))
def test_a_unit_peaks_where_its_slice_does(shape: list[int], unit: int, dtype: torch.dtype, seed: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    peaks = stats.unit_peaks(x, unit)
    if len(shape) < 2:
        assert peaks.tolist() == [x.max().item()]
    else:
        dimension = unit % len(shape)
        assert peaks.tolist() == [x.select(dimension, i).max().item() for i in range(shape[dimension])]


@given(
    SHAPES | st.lists(st.integers(6, 40), min_size=1, max_size=3).map(tuple),
    st.sampled_from(LAYOUTS[:-1]),
    st.sampled_from([0, 7, 8, 16, 64, 100, 1024]),
)
@example((40,), "every other", 8)
@example((6, 40), "every other", 16)
@example((11, 11, 17), "contiguous", 1024)
def test_a_sample_is_spread_over_the_whole(shape: tuple[int, ...], layout: str, size: int) -> None:
    x = laid_out(torch.arange(math.prod(shape), dtype=torch.float64).view(shape), layout)
    sample = stats.sample(x, size)
    assert torch.equal(sample, stats.sample(x, size)), "the same each time"
    elements = sample.flatten().tolist()
    if x.numel() < 2 * size or size < stats.BLOCK:
        assert sorted(elements) == sorted(x.flatten().tolist())
        return
    assert len(elements) == size // stats.BLOCK * stats.BLOCK
    if layout != "broadcast":
        assert len(set(elements)) == len(elements) <= x.numel()
    assert set(elements) <= set(x.flatten().tolist())
    if layout == "contiguous":
        places = sample[:, 0]
        assert places[0] == 0
        assert len(places) < 2 or len(set(places.diff().tolist())) == 1, "evenly"
        assert len(places) < 2 or int(places[1]) % 2, "an odd distance"
        short = 2 * len(places)  # each distance is rounded down, to an odd number
        assert x.numel() - elements[-1] < x.numel() / len(places) + short


@given(st.integers(2, 12), st.integers(2, 30), st.sampled_from([0.1, 1.0, 40.0]), st.integers(0, 2**32))
def test_spectral_excess_knows_neither_scale_nor_mean(m: int, n: int, scale: float, seed: int) -> None:
    weight = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    excess = stats.spectral_excess(weight).item()
    assert stats.spectral_excess(weight * scale + 3 * scale).item() == pytest.approx(excess, rel=1e-3)
    centred = (weight - weight.mean()).double()
    largest = torch.linalg.matrix_norm(centred, 2) / centred.norm() * math.sqrt(m * n) / (math.sqrt(m) + math.sqrt(n))
    assert 0.5 * largest < excess <= 1.00001 * largest, "found from below"
