import math

import numpy as np
import pytest

from gradscope.records import Layer, Metric
from gradscope.report.columns import KNOWN, Column, columns_of, fitting, percent, plain, scientific
from gradscope.summary import METRIC_ORDER
from tests.hand_written_runs import COLUMNS, run_of, sick_run, sound_run

LAYERS = (Layer("conv", "Conv2d", "convolution"), Layer("act", "ReLU", "rectifier"))


def test_every_metric_that_has_a_place_has_a_heading() -> None:
    assert {*KNOWN} == {*METRIC_ORDER}


def column(name: str, values: object, records: int = 1) -> Column:
    run = run_of("run", LAYERS, {name: np.asarray(values)}, records=records)
    return next(c for c in columns_of(run, (0, 1)) if c.name == name)


def texts(column: Column) -> list[str]:
    return [cell.text for cell in column.cells]


def outside(column: Column) -> list[bool]:
    return [cell.outside for cell in column.cells]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0, "0 %"),
        (1e-9, "<1 %"),
        (0.005, "<1 %"),
        (0.37, "37 %"),
        (0.994, "99 %"),
        (0.9999, ">99 %"),
        (1, "100 %"),
        (3e38, "3e+40 %"),
    ],
)
def test_percent(fraction: float, text: str) -> None:
    assert percent(fraction) == text


def test_numbers_have_three_significant_digits() -> None:
    assert [scientific(v) for v in (2.3149e-5, 0.0, 1e38, -3.0)] == ["2.31e-05", "0", "1.00e+38", "-3.00e+00"]
    assert [plain(v) for v in (0.0, 0.96, -12.3, 2.1e-3, 1e9)] == ["0.00", "0.96", "-12.30", "2.1e-03", "1.0e+09"]


def test_the_last_finite_value_is_shown() -> None:
    assert texts(column("grad_norm", [[1.0, 7], [2, 8], [math.nan, math.nan]], records=3)) == ["2.00e+00", "8.00e+00"]


def test_absent_is_blank_and_infinite_is_marked() -> None:
    grad_norm = column("grad_norm", [[1.0, math.nan], [math.inf, math.nan]], records=2)
    assert (texts(grad_norm), outside(grad_norm)) == (["1.00e+00", ""], [True, False])
    grad_norm = column("grad_norm", [-math.inf, 1])
    assert (texts(grad_norm), outside(grad_norm)) == (["-inf", "1.00e+00"], [True, False])


def test_the_healthy_range_is_closed_and_holds_for_its_kind_only() -> None:
    metric = Metric("x", "x", "value", {"rectifier": (-0.1, 0.1)})
    for value, outside_range in [(0.1, False), (-0.1, False), (0.1001, True), (-0.2, True)]:
        run = run_of("run", LAYERS, {"x": [value, value]}, columns=[metric], records=1)
        assert outside(columns_of(run, (0, 1))[0]) == [False, outside_range]


def test_a_mark_widens_the_column() -> None:
    assert column("dead_fraction", [0.1, 0.39]).width == len("dead")
    assert column("dead_fraction", [0.1, 0.41]).width == len("dead!")


def test_flags_of_all_records_are_gathered() -> None:
    nonfinite = column("nonfinite", [[0.0, 1], [0, 4], [0, math.nan]], records=3)
    assert (texts(nonfinite), outside(nonfinite)) == (["", "grad+out"], [False, True])


def test_columns_without_news_are_left_out() -> None:
    names = [c.name for c in columns_of(sound_run(), range(5))]
    assert names == ["grad_norm", "update_ratio", "act_mean", "act_var", "grad_norm_clipped", "weight_norm"]


def test_an_unknown_metric_comes_last_with_its_own_title() -> None:
    columns = (Metric("curvature", "sharpness of the loss", "value"), *COLUMNS)
    run = run_of("run", LAYERS, {"curvature": [1, 2], "grad_norm": [1, 2]}, columns=columns)
    assert [c.heading for c in columns_of(run, (0, 1))] == ["gradient", "sharpness of the l"]


def test_rows_choose_the_cells() -> None:
    run = run_of("run", LAYERS, {"grad_norm": [1, 2]})
    assert texts(columns_of(run, (1,))[0]) == ["2.00e+00"]
    assert texts(columns_of(run, ())[0]) == []


def test_what_fits_is_in_order_and_never_too_wide() -> None:
    columns = columns_of(sick_run(), range(12))
    for room in range(200):
        kept = fitting(columns, room, 2)
        assert list(kept) == [c for c in columns if c in kept]
        assert len(kept) == 1 or sum(c.width + 2 for c in kept) <= room
    assert fitting(columns, 199, 2) == columns
    assert fitting((), 10, 2) == ()


def test_a_sick_column_stays_longer_than_a_sound_one() -> None:
    names = [c.name for c in fitting(columns_of(sick_run(), range(12)), 45, 2)]
    assert names == ["grad_norm", "dead_fraction", "saturated_fraction", "nonfinite"]
