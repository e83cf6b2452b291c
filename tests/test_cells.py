import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from gradscope.cells import measured_cells
from gradscope.records import Layer, NonFinite, Run
from tests.hand_written_runs import empty_run, run_of

NAN, INF = math.nan, math.inf
LAYERS = (
    Layer("conv", "Conv2d", "convolution"),
    Layer("relu", "ReLU", "rectifier"),
    Layer("squash", "Sigmoid", "saturating"),
)
GRADIENT, WEIGHT, OUTPUT = (float(flag) for flag in NonFinite)


def cells(metric: str, values: Sequence[float], flags: Sequence[float], **totals: float) -> list[float]:
    """Return the cells of a single record over `LAYERS`."""
    return of({metric: values, "nonfinite": flags}, metric, **totals)


def of(metrics: Mapping[str, npt.ArrayLike], metric: str, **totals: float) -> list[float]:
    globals_ = {name: np.array([value]) for name, value in totals.items()}
    run: Run = run_of("run", LAYERS, metrics, records=1, globals=globals_)
    found = measured_cells(run, metric)
    assert found.dtype == np.float32
    assert found.shape == (1, len(LAYERS))
    values: list[float] = found[0].tolist()
    return values


@pytest.mark.parametrize(
    ("metric", "flag"),
    [
        ("grad_norm", GRADIENT),
        ("grad_norm_clipped", GRADIENT),
        ("weight_norm", WEIGHT),
        ("update_ratio", WEIGHT),
        ("update_ratio", GRADIENT),
        ("act_mean", OUTPUT),
        ("act_var", OUTPUT),
    ],
)
def test_a_nan_with_its_flag_was_measured_and_one_without_was_not(metric: str, flag: float) -> None:
    others = sum(NonFinite) - flag
    if metric == "update_ratio":
        others = OUTPUT
    np.testing.assert_array_equal(cells(metric, [NAN, NAN, 0.5], [flag, others, flag]), [INF, NAN, 0.5])


@pytest.mark.parametrize(("metric", "row"), [("zero_fraction", 1), ("saturated_fraction", 2)])
def test_a_fraction_is_lost_only_where_it_is_measured_at_all(metric: str, row: int) -> None:
    expected = [NAN, NAN, NAN]
    expected[row] = INF
    np.testing.assert_array_equal(cells(metric, [NAN, NAN, NAN], [OUTPUT, OUTPUT, OUTPUT]), expected)


@pytest.mark.parametrize("metric", ["grad_norm_clipped", "update_ratio"])
def test_where_the_optimizer_did_not_step_nothing_was_measured(metric: str) -> None:
    np.testing.assert_array_equal(cells(metric, [NAN, NAN, NAN], [GRADIENT, 0, 0], skipped=1.0), [NAN, NAN, NAN])
    np.testing.assert_array_equal(cells(metric, [NAN, NAN, NAN], [GRADIENT, 0, 0], skipped=0.0), [INF, NAN, NAN])


def test_clipping_by_a_nan_spoils_every_gradient() -> None:
    metrics = {"grad_norm": [NAN, 0.1, NAN], "grad_norm_clipped": [NAN] * 3, "nonfinite": [GRADIENT, 0, NAN]}
    found = of(metrics, "grad_norm_clipped", skipped=0.0, total_norm_clipped=NAN)
    np.testing.assert_array_equal(found, [INF, INF, NAN])
    np.testing.assert_array_equal(of(metrics, "grad_norm_clipped"), [INF, NAN, NAN])


def test_infinities_of_either_sign_become_one() -> None:
    np.testing.assert_array_equal(cells("act_mean", [-INF, INF, -0.5], [0, 0, 0]), [INF, INF, -0.5])


def test_a_fraction_of_units_is_a_number_where_it_is_measured() -> None:
    np.testing.assert_array_equal(cells("dead_fraction", [NAN, 0.5, NAN], [OUTPUT] * 3), [NAN, 0.5, NAN])


def test_the_run_stays_as_it_is() -> None:
    run = run_of("run", LAYERS, {"grad_norm": [NAN, 1, 2], "nonfinite": [GRADIENT, 0, 0]}, records=2)
    before = run.metric("grad_norm").copy()
    measured_cells(run, "grad_norm")
    np.testing.assert_array_equal(run.metric("grad_norm"), before)


def test_without_the_metric_or_its_flags_nothing_was_measured() -> None:
    run = run_of("run", LAYERS, {"weight_norm": [NAN, INF, 1]}, records=1)
    assert np.isnan(measured_cells(run, "grad_norm")).all()
    np.testing.assert_array_equal(measured_cells(run, "weight_norm"), [[NAN, INF, 1]])
    assert measured_cells(empty_run(), "grad_norm").shape == (0, 0)
