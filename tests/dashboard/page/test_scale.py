"""From numbers to colours: distances from a range, and one scale over all that is shown."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradscope import grid
from gradscope.dashboard import content
from gradscope.records import Float64s, Floats, Metric
from tests.dashboard.modules import Module, floats
from tests.hand_written_runs import COLUMNS

pytestmark = pytest.mark.slow

METRICS = {column.name: column for column in COLUMNS}
MEAN, VARIANCE = (-0.1, 0.1), (0.8, 1.5)  # Klambauer et al. 2017, theorem 1
UNHEALTHY = Metric("act_mean", "mean", "value")

WITH_MATRICES = """(m, work, metric, given, byContract) => {
  const matrices = given.map(({cells, kinds}) => ({
    metric, steps: cells, data: Float32Array.from(cells.flat()), layers: kinds.map((kind) => ({kind})),
    measured: kinds.map((_, i) => i).filter((i) => cells.some((record) => !Number.isNaN(record[i]))),
  }));
  const parts = matrices.map((matrix) => m.drawn(matrix, byContract));
  return (0, eval)(work)(m, metric, matrices, parts);
}"""


@pytest.fixture(scope="module")
def scale(module_of: Callable[[str], Module]) -> Module:
    return module_of("scale.js")


def work(
    scale: Module, what: str, metric: Metric, *cells: Floats, kind: str = "linear", by_contract: bool = False
) -> Any:
    """Return what the JavaScript `what` makes of matrices with `cells`, [S, L] each, of layers of one kind."""
    given = [{"cells": one.tolist(), "kinds": [kind] * one.shape[1]} for one in cells]
    return scale.run(WITH_MATRICES, what, content.metric(metric), given, by_contract)


def scale_over(scale: Module, metric: Metric, *cells: Floats, **rest: Any) -> dict[str, Any]:
    what = f"""(m, metric, matrices, parts) => {{
      const {{low, high, centre, cutLow, cutHigh, logarithmic}} =
        m.scaleOver(metric, matrices, parts, {str(rest.get("by_contract", False)).lower()}, false);
      return {{low, high, centre, cutLow, cutHigh, logarithmic}};
    }}"""
    found: dict[str, Any] = work(scale, what, metric, *cells, **rest)
    return found


def colours_of(scale: Module, metric: Metric, cells: Floats, **rest: Any) -> Any:
    """Return uint8[S, L, 3]: the colour of each cell."""
    what = f"""(m, metric, matrices, parts) => {{
      const scale = m.scaleOver(metric, matrices, parts, {str(rest.get("by_contract", False)).lower()}, false);
      return Array.from(parts[0], (value) => m.colourOf(scale, value));
    }}"""
    packed = np.array(work(scale, what, metric, cells, **rest), dtype="<u4").reshape(cells.shape[::-1]).T
    return np.ascontiguousarray(packed).view(np.uint8).reshape(*cells.shape, 4)[..., :3]


@pytest.mark.parametrize("bounds", [MEAN, VARIANCE, (-0.5, 2.0)])
def test_within_one_is_within_the_range_and_nothing_else_is(bounds: tuple[float, float], scale: Module) -> None:
    low, high = bounds
    for share in np.linspace(0, 1, 41):
        assert abs(scale.call("distance", low + share * (high - low), bounds)) <= 1 + 1e-12
    for outside in (1e-9, 1e-3, 0.5, 10):
        assert scale.call("distance", high + outside, bounds) > 1
        assert scale.call("distance", low - min(outside, 0.7), bounds) < -1
    assert scale.call("distance", high, bounds) == 1
    assert scale.call("distance", low, bounds) == -1


def test_a_range_of_positive_numbers_beside_one_has_its_own_middle(scale: Module) -> None:
    bounds = [0.2, 0.8]
    assert scale.call("distance", 0.4, bounds) == pytest.approx(0)
    assert scale.call("distance", 0.8, bounds) == pytest.approx(1)
    assert scale.call("distance", 0.2, bounds) == pytest.approx(-1)
    assert scale.call("distance", 1.6, bounds) == pytest.approx(2)
    for reached in (-2.5, -1, 0, 1, 3):
        assert scale.call("distance", scale.call("atDistance", reached, bounds), bounds) == pytest.approx(reached)


def test_distances_have_closed_forms(scale: Module) -> None:
    assert scale.call("distance", 0.0, MEAN) == 0
    assert scale.call("distance", 0.3, MEAN) == pytest.approx(3)
    assert scale.call("distance", 1.0, VARIANCE) == 0
    assert scale.call("distance", 1.5**3, VARIANCE) == pytest.approx(3)
    assert scale.call("distance", 0.8**4, VARIANCE) == pytest.approx(-4)
    assert scale.call("distance", 0.0, VARIANCE) == -math.inf


@pytest.mark.parametrize("bounds", [MEAN, VARIANCE])
def test_a_distance_leads_back_to_its_value(bounds: tuple[float, float], scale: Module) -> None:
    for reached in (-12, -3.5, -1, 0, 0.5, 1, 7):
        value = scale.call("atDistance", reached, bounds)
        assert scale.call("distance", value, bounds) == pytest.approx(reached, abs=1e-12)


@pytest.mark.parametrize(("name", "bounds"), [("act_mean", MEAN), ("act_var", VARIANCE)])
def test_what_is_in_the_selu_bounds_has_the_quiet_colour_and_nothing_else(
    name: str, bounds: tuple[float, float], scale: Module
) -> None:
    low, high = bounds
    inside = np.linspace(low, high, 101)
    outside = np.concatenate([low - np.geomspace(1e-4, 0.75, 60), high + np.geomspace(1e-4, 100, 60)])
    cells = np.concatenate([inside, outside]).astype(np.float32)[None]
    found = colours_of(scale, METRICS[name], cells, kind="self_normalizing", by_contract=True)[0]
    quiet = (found == (203, 228, 206)).all(axis=1)
    assert quiet[: len(inside)].all()
    assert not quiet[len(inside) :].any()


def test_a_range_counts_only_where_all_that_is_measured_has_it(scale: Module) -> None:
    has = "(m, metric, matrices) => m.hasContract(metric, matrices)"
    cells = floats([[0.1, math.inf]])
    assert work(scale, has, METRICS["act_mean"], cells, kind="self_normalizing")
    assert not work(scale, has, METRICS["act_mean"], cells, cells * math.nan, kind="rectifier")
    assert not work(scale, has, METRICS["act_mean"], cells * math.nan, kind="self_normalizing")
    assert not work(scale, has, METRICS["update_ratio"], cells, kind="linear")  # healthy, but on one side alone
    assert not work(scale, has, METRICS["act_mean"], cells, kind="constructor")
    assert not work(scale, has, UNHEALTHY, cells, kind="self_normalizing")


def test_what_is_drawn_of_a_cell(scale: Module) -> None:
    cells = floats([[100, 0, math.inf, -math.inf, math.nan, 1e-3]])
    drawn = "(m, metric, matrices, parts) => Array.from(parts[0])"
    logarithms = floats([2, -math.inf, math.inf, math.inf, math.nan, -3])
    np.testing.assert_array_equal(floats(work(scale, drawn, METRICS["grad_norm"], cells)), logarithms)
    as_they_are = floats([100, 0, math.inf, math.inf, math.nan, 1e-3])
    np.testing.assert_array_equal(floats(work(scale, drawn, METRICS["act_mean"], cells)), as_they_are)
    distances = floats([1000, 0, math.inf, math.inf, math.nan, 0.01])
    found = work(scale, drawn, METRICS["act_mean"], cells, kind="self_normalizing", by_contract=True)
    np.testing.assert_allclose(floats(found), distances, rtol=1e-6)


def test_layers_lie_one_after_another(scale: Module) -> None:
    cells = np.arange(6, dtype=np.float32).reshape(3, 2)
    drawn = "(m, metric, matrices, parts) => Array.from(parts[0])"
    assert work(scale, drawn, METRICS["zero_fraction"], cells) == [0, 2, 4, 1, 3, 5]


def python_cells(metric: Metric, cells: Floats) -> Float64s:
    """Return what the logged picture draws of `cells`."""
    values = np.where(np.isinf(cells), np.inf, cells).astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log10(values) if metric.unit in ("L2 norm", "ratio") else values


def noisy(seed: int, metric: Metric, shape: tuple[int, int] = (40, 9)) -> Floats:
    rng = np.random.default_rng(seed)
    values: dict[str, npt.NDArray[Any]] = {
        "L2 norm": 10 ** rng.normal(-2, 1 + seed % 3, shape),
        "ratio": 10 ** rng.normal(-3, 0.3, shape),
        "value": rng.normal(0.3, 0.2, shape),
        "fraction": rng.random(shape),
        "flags": rng.integers(0, 8, shape),
    }
    cells = values[metric.unit].astype(np.float32)
    for odd in (math.nan, math.inf, 0.0):
        cells[rng.random(shape) < 0.05] = odd
    return cells


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["grad_norm", "update_ratio", "act_mean", "zero_fraction", "nonfinite"])
def test_colours_and_scale_are_those_of_the_logged_pictures(name: str, seed: int, scale: Module) -> None:
    metric = METRICS[name]
    cells = noisy(seed, metric)
    drawn = python_cells(metric, cells)
    expected = grid._scale(metric, drawn)
    found = scale_over(scale, metric, cells)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert (found["cutLow"], found["cutHigh"]) == (expected.clipped_low, expected.clipped_high)
    assert found["logarithmic"] == expected.logarithmic
    # The table here has 256 colours: halfway between two of them either may be taken.
    difference = np.abs(colours_of(scale, metric, cells).astype(int) - grid.colours_of(drawn, expected).astype(int))
    assert difference.max() <= 3
    odd = ~np.isfinite(drawn)
    assert odd.any()
    assert (difference[odd] == 0).all()


def test_an_outlier_is_cut_and_does_not_squeeze_the_others(scale: Module) -> None:
    cells = np.full((100, 10), 1e-2, dtype=np.float32)
    cells[3, 4], cells[5, 6] = 1e-30, 1e30
    found = scale_over(scale, METRICS["grad_norm"], cells)
    assert (found["low"], found["high"]) == pytest.approx((-10, 6))
    assert (found["cutLow"], found["cutHigh"]) == (True, True)


def test_an_outlier_on_a_linear_scale_is_cut_at_ten_times_the_middle_half(scale: Module) -> None:
    found = scale_over(scale, UNHEALTHY, floats([[*np.linspace(0, 1, 101), 1e6]]))
    assert (found["low"], found["high"]) == pytest.approx((0, 0.5 + 10 * 0.5))
    assert (found["cutLow"], found["cutHigh"]) == (False, True)


@pytest.mark.parametrize(
    ("name", "cells", "centre"),
    [
        ("grad_norm", [1e-4, 1e-2, 1e3, 0, math.inf, math.nan], -2),
        ("act_mean", [0.1, 0.2, 0.9], 0.2),
        ("zero_fraction", [0.1, 0.2, 0.9], -1),
        ("nonfinite", [0, 0, 4], -1),
    ],
)
def test_worst_is_far_from_the_median_or_just_large(
    name: str, cells: list[float], centre: float, scale: Module
) -> None:
    assert scale_over(scale, METRICS[name], floats([cells]))["centre"] == pytest.approx(centre)


def test_what_hardly_varies_looks_calm(scale: Module) -> None:
    found = scale_over(scale, METRICS["grad_norm"], floats([[0.9, 1.1], [1.0, 1.05]]))
    assert found["high"] - found["low"] == pytest.approx(3)
    found = scale_over(scale, UNHEALTHY, floats([[0.0, 0.0]]))
    assert found["low"] < 0 < found["high"]


def test_one_scale_spans_all_runs(scale: Module) -> None:
    one, other = floats([[1e-4, 1e-3]]), floats([[1e3], [1e4], [math.nan]])
    found = scale_over(scale, METRICS["grad_norm"], one, other)
    assert (found["low"], found["high"]) == pytest.approx((-4, 4))


@pytest.mark.parametrize("name", ["grad_norm", "act_mean", "zero_fraction", "nonfinite"])
def test_without_a_number_there_is_a_scale_all_the_same(name: str, scale: Module) -> None:
    for odd in (math.nan, math.inf):
        found = scale_over(scale, METRICS[name], floats([[odd, odd]]))
        assert (found["low"], found["high"]) == (0, 7 if name == "nonfinite" else 1)
        assert (found["cutLow"], found["cutHigh"]) == (False, False)


@pytest.mark.parametrize(
    ("values", "reach", "cut"),
    [
        ([0.05], 3, (False, False)),
        ([-0.5, 0.1], 5, (False, False)),
        ([-9.0, 0.1], 12, (True, False)),
        ([0.1, 9.0], 12, (False, True)),
        ([math.inf], 3, (False, False)),
    ],
)
def test_a_range_of_two_sides_reaches_as_far_on_both(
    values: Sequence[float], reach: float, cut: tuple[bool, bool], scale: Module
) -> None:
    cells = floats([values])
    found = scale_over(scale, METRICS["act_mean"], cells, kind="self_normalizing", by_contract=True)
    assert (found["low"], found["high"], found["centre"]) == (pytest.approx(-reach), pytest.approx(reach), 0)
    assert (found["cutLow"], found["cutHigh"]) == cut


@pytest.mark.parametrize(
    ("name", "values", "by_contract", "texts"),
    [
        ("act_var", [1.0], True, ["0.51", "0.8", "1.5", "3.4"]),
        ("act_mean", [0.5], True, ["−0.5", "−0.1", "0.1", "0.5"]),
        ("grad_norm", [1e-4, 1e2], False, ["10⁻⁴", "10⁻²", "10⁰", "10²"]),
        ("zero_fraction", [0.5], False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        ("nonfinite", [0.0, 7.0], False, ["none", "grad", "weight", "out", "all"]),
    ],
)
def test_the_colour_bar_is_labelled(
    name: str, values: list[float], by_contract: bool, texts: list[str], scale: Module
) -> None:
    what = f"""(m, metric, matrices, parts) =>
      m.marks(m.scaleOver(metric, matrices, parts, {str(by_contract).lower()}, false))"""
    found = work(scale, what, METRICS[name], floats([values]), kind="self_normalizing", by_contract=by_contract)
    assert [mark["text"] for mark in found] == texts
    places = [mark["at"] for mark in found]
    assert places == sorted(places)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)


def test_the_legend_explains_every_colour_that_is_drawn(scale: Module, module_of: Callable[[str], Module]) -> None:
    legend = module_of("legend.js")
    texts = "(m, scale) => m.specials(scale, false).map(({text}) => text)"
    assert "exactly zero" in legend.run(texts, {"logarithmic": True, "range": None})
    assert "exactly zero" in legend.run(texts, {"logarithmic": False, "range": VARIANCE})  # zero is without end away
    assert "exactly zero" not in legend.run(texts, {"logarithmic": False, "range": MEAN})
    assert "exactly zero" not in legend.run(texts, {"logarithmic": False, "range": None})
