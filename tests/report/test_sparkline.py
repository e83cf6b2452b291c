import math

import numpy as np
import pytest

from gradscope.report.sparkline import ASCII, BLOCKS, sparkline


def test_powers_of_ten_climb_one_block_each() -> None:
    assert sparkline(10.0 ** np.arange(8), 8) == BLOCKS.levels


def test_negative_values_make_the_scale_linear() -> None:
    assert sparkline(np.arange(-4, 4), 8) == BLOCKS.levels


def test_noise_within_a_decade_stays_in_the_middle() -> None:
    assert set(sparkline([1.0, 1.02, 0.98, 1.01], 4)) <= set("▄▅")
    assert sparkline([1.0, 1.02], 2, least_decades=0.0) == "▁█"


def test_neighbours_are_averaged_to_the_width() -> None:
    assert sparkline([1, 1, 1, 1e7, 1e7, 1e7], 2) == "▁█"
    assert sparkline([1.0] * 1000, 7) == "▅" * 7
    assert sparkline([1, 10], 40) == "▁█", "a series shorter than the width is not stretched"


def test_absent_infinite_and_zero_look_different() -> None:
    assert sparkline([math.nan, 1, math.inf, 1e7, 0], 5) == "·▁!█▁"
    assert sparkline([math.nan, 1, math.inf, 1e7, 0], 5, ASCII) == " _!#_"
    assert sparkline([1, -math.inf, -1], 3) == "█!▁"


def test_a_bin_shows_its_infinity_and_skips_what_is_absent() -> None:
    assert sparkline([1, math.inf, math.nan, 1e7, math.nan, math.nan], 3) == "!█·"


@pytest.mark.parametrize(("values", "drawn"), [([], ""), ([0, 0], "▁▁"), ([math.nan], "·"), ([math.inf], "!")])
def test_nothing_to_scale_by(values: list[float], drawn: str) -> None:
    assert sparkline(values, 8) == drawn


def test_extreme_values_draw_without_a_warning() -> None:
    assert sparkline([-1.7e308, 1.7e308], 2) == "▁█"
    assert sparkline([5e-324, 1.7e308], 2) == "▁█"
    assert len(sparkline([-1.7e308, -1.7e308, 1.7e308, 1.7e308], 2)) == 2


def test_no_width_no_line() -> None:
    assert sparkline([1, 2], 0) == ""
