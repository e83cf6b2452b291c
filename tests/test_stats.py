import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradscope import stats


@pytest.mark.parametrize("size", [1, 255, 256, 1024, 65_536, 65_537, 100_003, 1_200_000])
@pytest.mark.parametrize("make", [torch.randn, lambda n: torch.full((n,), 0.1), lambda n: torch.randn(n) ** 5 * 1e-6])
def test_l2_norm_is_exact(size: int, make: object) -> None:
    x = make(size)  # type: ignore[operator]
    exact = math.sqrt(x.double().square().sum().item())
    assert stats.l2_norms([x]).item() == pytest.approx(exact, rel=5e-7)


@pytest.mark.parametrize("shape", [(1024, 1024), (1001, 1001)])
def test_l2_norm_of_another_order_in_memory_is_exact(shape: tuple[int, int]) -> None:
    x = torch.full(shape, 0.1)
    for other in (x.t(), x[:, ::2], x.view(1, 1, *shape).to(memory_format=torch.channels_last)):
        exact = math.sqrt(other.double().square().sum().item())
        assert stats.l2_norms([other]).item() == pytest.approx(exact, rel=5e-6)


def test_l2_norms_of_closed_forms_in_every_dtype_and_layout() -> None:
    tensors = [
        torch.tensor([3.0, 4.0]),
        torch.full((4096, 4096), 100.0, dtype=torch.float16),  # the squares alone overflow half precision
        torch.tensor([3 + 4j]),
        torch.full((64, 64), 3 + 4j).mH,  # in memory it is not yet conjugated
        torch.tensor([3.0, 4.0], dtype=torch.float64),
        torch.sparse_coo_tensor(
            torch.tensor([[1, 1, 5]]), torch.tensor([1.0, 2.0, 4.0]), (9,), check_invariants=True
        ),  # 1 and 2 stand at the same place
        torch.zeros(0),
        torch.ones(3, 4, 5, 6).to(memory_format=torch.channels_last),
        torch.ones(2000, 2).t()[:1],
    ]
    expected = [5, 409_600, 5, 320, 5, 5, 0, math.sqrt(360), math.sqrt(2000)]
    norms = stats.l2_norms(tensors)
    assert norms.dtype == torch.float32
    assert norms.tolist() == pytest.approx(expected, rel=1e-6)


def test_l2_norms_keep_nan_and_infinity() -> None:
    norms = stats.l2_norms([torch.tensor([1.0, math.nan]), torch.tensor([1.0, -math.inf]), torch.ones(1)])
    assert torch.isnan(norms[0])
    assert norms[1:].tolist() == [math.inf, 1]
    big = torch.ones(5000)
    big[4321] = math.nan
    assert torch.isnan(stats.l2_norms([big])[0])


def test_l2_norms_of_nothing() -> None:
    assert stats.l2_norms([]).shape == (0,)


def test_sample_spreads_and_repeats() -> None:
    x = torch.arange(1_000_000.0)
    sample = stats.sample(x, 1024)
    assert sample.shape == (128, stats.BLOCK)
    assert sample[-1, -1] > 990_000
    assert len({int(v) % 64 for v in sample[:, 0]}) > 32, "blocks must not stand above each other in a matrix"
    assert torch.equal(sample, stats.sample(x, 1024))
    assert sample.untyped_storage().data_ptr() == x.untyped_storage().data_ptr(), "a view"
    assert stats.sample(x[100:].view(-1, 100), 1024)[0, 0] == 100
    assert stats.sample(torch.ones(3, 4), 1024).shape == (12,)
    assert stats.sample(torch.zeros(0), 1024).shape == (0,)


def test_a_sample_of_single_elements_spreads_too() -> None:
    x = torch.arange(1_000_000.0)
    sample = stats.sample(x, 256, block=1)
    assert 250 <= len(sample) <= 256
    assert sample[-1] > 990_000
    assert set(torch.diff(sample).tolist()) == {1e6 // 256 + 1}, "an odd distance"
    for elements in (512, 513, 767, 768, 1024, 1279, 5000):
        few = stats.sample(torch.arange(float(elements)), 256, block=1)
        assert 170 <= len(few) <= 512
        assert few[-1] >= 0.98 * elements, "nothing is left out at the end"
    assert stats.sample(torch.ones(3, 4), 256, block=1).shape == (12,)
    assert stats.sample(torch.zeros(0), 256, block=1).shape == (0,)


@pytest.mark.parametrize("block", [1, stats.BLOCK])
def test_sample_takes_elements_of_the_tensor_and_no_others(block: int) -> None:
    x = torch.arange(40_000.0)
    for every_other in (x[::2], x.view(100, 400)[:, ::2]):
        assert set(stats.sample(every_other, 1024, block).flatten().tolist()) <= set(every_other.flatten().tolist())
    assert set(stats.sample(torch.tensor([7.0]).expand(5000), 1024, block).flatten().tolist()) == {7}


def test_sample_follows_the_values_of_a_dense_tensor() -> None:
    x = torch.randn(8, 3, 5, 5, requires_grad=True)
    last = x.detach().clone(memory_format=torch.channels_last).requires_grad_()
    for tensor in (x, last):
        sample = stats.sample(tensor, 16)
        assert not sample.requires_grad
        with torch.no_grad():
            tensor.fill_(7)
        assert sample.flatten().tolist() == [7] * sample.numel()


def test_a_sample_is_half_of_a_tensor_at_most() -> None:
    assert stats.sample(torch.ones(2047), 1024).numel() == 2047
    assert stats.sample(torch.ones(2048), 1024).numel() == 1024


@pytest.mark.parametrize("shape", [(128, 32, 26, 26), (1, 3_000_000), (4, 1_000_003), (3_000_000,), (128, 256), ()])
def test_sample_is_small_and_unbiased(shape: tuple[int, ...]) -> None:
    x = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    part = stats.sample(x, 4096)
    assert min(4096, x.numel()) <= part.numel() <= 8192
    assert part.mean().item() == pytest.approx(x.mean().item(), rel=0.03)


def mean_and_variance(x: Tensor) -> tuple[float, float]:
    totals, squares = stats.moments(torch.stack((x.flatten(), torch.zeros(x.numel(), dtype=x.dtype))))
    assert totals[1] == squares[1] == 0, "each row by itself"
    return totals[0].item() / x.numel(), squares[0].item() / x.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_moments_equal_a_float64_oracle(dtype: torch.dtype) -> None:
    x = (torch.randn(64, 33) * 2 + 1).to(dtype)
    mean, variance = mean_and_variance(x)
    assert mean == pytest.approx(x.double().mean().item(), rel=1e-5)
    assert variance == pytest.approx(x.double().var(correction=0).item(), rel=1e-5)


def test_variance_survives_a_mean_far_from_zero() -> None:
    x = (torch.randn(1000, 100, dtype=torch.float64) * 0.1 + 1000).float()
    assert mean_and_variance(x)[1] == pytest.approx(0.01, rel=0.02)


def test_moments_of_doubles_are_doubles() -> None:
    totals, squares = stats.moments(torch.tensor([[1 + 1e-12, 1 - 1e-12]], dtype=torch.float64))
    assert totals.item() == 2
    assert squares.item() == pytest.approx(2e-24, rel=1e-3)
    assert stats.moments(torch.tensor([[3.0]]))[1].item() == 0, "one number has no spread"


def test_statistics_of_nothing_are_zero() -> None:
    empty = torch.zeros(1, 0)
    assert torch.stack(stats.moments(empty)).tolist() == [[0], [0]]
    assert stats.positive_counts(empty) == 0
    assert stats.saturated_counts(empty, (0, 1)) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_positive_counts_count_what_is_above_zero(dtype: torch.dtype) -> None:
    assert stats.positive_counts(torch.tensor([[0.0, -0.0, 1e-7, 2.0, 3.0]], dtype=dtype)).item() == 3
    many = torch.ones(1, 5001, dtype=dtype)
    many[0, 0] = 0
    assert stats.positive_counts(many).item() == 5000
    assert stats.positive_counts(many).dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "scale", "limits"), [(torch.sigmoid, 1.0, (0.0, 1.0)), (torch.tanh, 0.5, (-1.0, 1.0))]
)
def test_saturation_starts_at_the_same_input_for_sigmoid_and_tanh(
    function: object, scale: float, limits: tuple[float, float]
) -> None:
    edge = math.log(99)  # σ(log 99) = 0.99
    inputs = torch.tensor([-edge - 0.01, -edge + 0.01, 0.0, edge - 0.01, edge + 0.01]) * scale
    outputs: Tensor = function(inputs)  # type: ignore[operator]
    assert stats.saturated_counts(outputs.unsqueeze(0), limits).item() == 2


@pytest.mark.parametrize(("shape", "unit"), [((5, 7), -1), ((5, 7, 3, 3), 1), ((5, 9, 7), -1)])
def test_unit_peaks_equal_a_loop(shape: tuple[int, ...], unit: int) -> None:
    x = torch.randn(shape)
    loop = [x.select(unit, i).max().item() for i in range(7)]
    assert stats.unit_peaks(x, unit).tolist() == loop


def test_a_tensor_of_one_dimension_is_one_unit() -> None:
    assert stats.unit_peaks(torch.tensor([1.0, 3.0, -2.0]), -1).tolist() == [3.0]
    assert stats.unit_peaks(torch.tensor(2.0), -1).tolist() == [2.0]


def test_unit_peaks_never_share_memory_with_the_output() -> None:
    x = torch.randn(1, 7)
    peaks = stats.unit_peaks(x, -1)
    x.fill_(99)
    assert peaks.max() < 99


@pytest.mark.parametrize("shape", [(2, 3), (8, 8), (16, 4, 3, 3), (10, 512), (256, 100)])
@pytest.mark.parametrize("draw", [torch.randn, lambda *shape: torch.rand(*shape) + 0.3])
def test_drawn_weights_have_no_spectral_excess(shape: tuple[int, ...], draw: Callable[..., Tensor]) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        assert 0.4 < float(stats.spectral_excess(draw(*shape))) < 1.15


def test_spectral_excess_of_closed_forms() -> None:
    torch.manual_seed(0)
    u, v = torch.randn(64), torch.randn(32)
    v -= v.mean()
    rank_one = float(stats.spectral_excess(torch.outer(u, v)))
    assert rank_one == pytest.approx(math.sqrt(64 * 32) / (8 + math.sqrt(32)), rel=1e-4), "all its norm in one value"
    spiked = torch.randn(64, 32) + torch.outer(u, v) / 2
    exact = torch.linalg.matrix_norm(spiked - spiked.mean(), 2) / spiked.std(correction=0) / (8 + math.sqrt(32))
    assert float(stats.spectral_excess(spiked)) == pytest.approx(float(exact), rel=0.01)
    assert math.isnan(float(stats.spectral_excess(torch.full((3, 4), 0.5))))
